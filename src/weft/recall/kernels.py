"""Look contexts up in a text whose suffixes are in order, and mix what is found there with a model: plain loops.

:func:`weft.recall.compiled.compiled` compiles them; without Numba they are ordinary Python, slower and the same.
Shapes: N tokens of the memory, M places in its order, T tokens of a text, K context lengths, C classes of contexts, V
vocabulary.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

from __future__ import annotations

import math

import numpy as np

from weft.recall.constants import FOLLOWER_CLASSES, FOLLOWERS_ONE_BY_ONE, SEEN_CLASSES
from weft.recall.loops import helper


@helper
def compare(tokens_N, start, text_T, first, length):
    """Compare the suffix of the memory at ``start`` with ``length`` tokens of the text: below 0, 0 or above 0."""
    for offset in range(length):
        place = start + offset
        if place >= len(tokens_N):
            return -1
        difference = int(tokens_N[place]) - int(text_T[first + offset])
        if difference != 0:
            return difference
    return 0


@helper
def bound(tokens_N, order_M, text_T, first, length, low, high, above):
    """Return where in [low, high) the suffixes that begin with these tokens begin, or with ``above`` end."""
    while low < high:
        middle = (low + high) // 2
        compared = compare(tokens_N, order_M[middle], text_T, first, length)
        if compared < 0 or (above and compared == 0):
            low = middle + 1
        else:
            high = middle
    return low


@helper
def find(tokens_N, order_M, text_T, first, length):
    """Return the range [low, high) of the suffixes that begin with ``length`` tokens of the text from ``first`` on."""
    low = bound(tokens_N, order_M, text_T, first, length, 0, len(order_M), False)
    # An end is looked for in steps that double, as most ranges are short.
    step = 1
    end = low
    while end < len(order_M) and compare(tokens_N, order_M[end], text_T, first, length) == 0:
        end += step
        step *= 2
    high = bound(tokens_N, order_M, text_T, first, length, low, min(end, len(order_M)), True)
    return low, high


@helper
def token_at(tokens_N, place):
    """Return the token at a place, -1 beyond the end, where only the order of a damaged memory leads."""
    if place < len(tokens_N):
        return int(tokens_N[place])
    return -1


@helper
def end_of_follower(tokens_N, order_M, place, high, length):
    """Return where the suffixes end that go on as the one at ``place`` does: in the order they stand together."""
    token = token_at(tokens_N, order_M[place] + length)
    step = 1
    end = place + 1
    while end < high and token_at(tokens_N, order_M[end] + length) == token:
        end += step
        step *= 2
    end = min(end, high)
    begin = place + 1
    while begin < end:
        middle = (begin + end) // 2
        if token_at(tokens_N, order_M[middle] + length) == token:
            begin = middle + 1
        else:
            end = middle
    return begin


@helper
def count_followers(tokens_N, order_M, low, high, length, most):
    """Return how many different tokens follow in the range, ``most`` at most."""
    different = 0
    place = low
    while place < high and different < most:
        different += 1
        place = end_of_follower(tokens_N, order_M, place, high, length)
    return different


def look_up(tokens_N, order_M, text_T, begins_T, start, most, seen_KT, said_KT, different_KT):
    """Write for the tokens of a text from ``start`` on what the memory says of each after the last 1 to K tokens.

    ``begins_T`` is where the document of what stands before a token begins: no context reaches beyond. ``seen_KT`` is
    how often the context stands in the memory, ``said_KT`` how often the token follows it, ``different_KT`` how many
    tokens do, ``most`` at most. A context that is not there ends the search for longer ones.
    """
    K, count = seen_KT.shape
    for place in range(count):
        t = start + place
        for k in range(min(K, t - begins_T[t])):
            length = k + 1
            low, high = find(tokens_N, order_M, text_T, t - length, length)
            if low == high:
                break
            seen_KT[k, place] = high - low
            different_KT[k, place] = count_followers(tokens_N, order_M, low, high, length, most)
            # The suffixes of the context are in the order of what follows it.
            first = bound(tokens_N, order_M, text_T, t - length, length + 1, low, high, False)
            last = bound(tokens_N, order_M, text_T, t - length, length + 1, first, high, True)
            said_KT[k, place] = last - first


@helper
def class_of(seen, different):
    """Return the class of a context that stands ``seen`` times in a text, followed by ``different`` tokens.

    Powers of two of both, but the first four of ``different`` one by one.
    """
    power = 0
    while power < SEEN_CLASSES - 1 and seen >> (power + 1):
        power += 1
    row = different - 1
    if different > FOLLOWERS_ONE_BY_ONE:
        row = FOLLOWERS_ONE_BY_ONE
        while row < FOLLOWER_CLASSES - 1 and different >> (row - 1):
            row += 1
    return power * FOLLOWER_CLASSES + row


@helper
def chain(chance, t, seen_KT, said_KT, different_KT, share_KC, classes_K, told_K, chances_K):
    """Write p_1 to p_L of token t, given p_0, and return L, the length of its longest context."""
    length = 0
    while length < len(seen_KT) and seen_KT[length, t] > 0:
        kind = class_of(seen_KT[length, t], different_KT[length, t])
        share = share_KC[length, kind]
        told = said_KT[length, t] / seen_KT[length, t]
        chance = (1 - share) * chance + share * told
        classes_K[length] = kind
        told_K[length] = told
        chances_K[length] = chance
        length += 1
    return length


@helper
def came_from(length, share_KC, classes_K, told_K, chances_K, given_KC, asked_KC):
    """Add to each context's count how probable it is that the token came from there, going back from the longest.

    It came from the longest with the probability s_L c_L / p_L, else from one of the others, in the same way.
    """
    others = 1.0
    for k in range(length - 1, -1, -1):
        share = share_KC[k, classes_K[k]]
        here = 0.0
        if chances_K[k] > 0:
            here = others * share * told_K[k] / chances_K[k]
        asked_KC[k, classes_K[k]] += others
        given_KC[k, classes_K[k]] += here
        others -= here


def count_shares(nats_T, scored_T, seen_KT, said_KT, different_KT, share_KC, given_KC, asked_KC):
    """Add the expectations of all tokens that are scored, by the shares as they are: a step of EM over a text."""
    K = len(seen_KT)
    classes_K = np.zeros(K, dtype=np.int64)
    told_K = np.zeros(K)
    chances_K = np.zeros(K)
    for t in range(len(nats_T)):
        if scored_T[t]:
            chance = math.exp(-nats_T[t])
            length = chain(chance, t, seen_KT, said_KT, different_KT, share_KC, classes_K, told_K, chances_K)
            came_from(length, share_KC, classes_K, told_K, chances_K, given_KC, asked_KC)


def mix_in(nats_T, scored_T, seen_KT, said_KT, different_KT, given_KC, asked_KC, learn, mixed_T):
    """Write the nats of the mixture; with ``learn``, the shares follow each token after it is scored."""
    K = len(seen_KT)
    classes_K = np.zeros(K, dtype=np.int64)
    told_K = np.zeros(K)
    chances_K = np.zeros(K)
    share_KC = given_KC / asked_KC
    for t in range(len(nats_T)):
        mixed_T[t] = nats_T[t]
        if not scored_T[t]:
            continue
        chance = math.exp(-nats_T[t])
        length = chain(chance, t, seen_KT, said_KT, different_KT, share_KC, classes_K, told_K, chances_K)
        if length == 0:
            continue
        chance = chances_K[length - 1]
        mixed_T[t] = -math.log(chance) if chance > 0 else math.inf
        if learn:
            came_from(length, share_KC, classes_K, told_K, chances_K, given_KC, asked_KC)
            for k in range(length):
                kind = classes_K[k]
                share_KC[k, kind] = given_KC[k, kind] / asked_KC[k, kind]


@helper
def add_what_follows(tokens_N, order_M, begins_V, follower_F, count_F, context_T, share_KC, most, chances_V, touched_V):
    """Add what follows the context's last 1, 2, ... tokens in the memory to ``chances_V``, by weight.

    After one token there may be thousands: ``follower_F`` and ``count_F`` list them, those of token v from
    ``begins_V[v]`` to ``begins_V[v + 1]``. ``touched_V`` takes in which tokens these are, each once. Returns their
    number, and the weight that is left for the model: the chances and that weight come to one.
    """
    K = min(len(share_KC), len(context_T))
    lows_K = np.zeros(K, dtype=np.int64)
    highs_K = np.zeros(K, dtype=np.int64)
    shares_K = np.zeros(K)
    length = 0
    while length < K:
        k = length + 1
        low, high = find(tokens_N, order_M, context_T, len(context_T) - k, k)
        if low == high:
            break
        different = count_followers(tokens_N, order_M, low, high, k, most)
        lows_K[length] = low
        highs_K[length] = high
        shares_K[length] = share_KC[length, class_of(high - low, different)]
        length += 1

    # p_k of p_{k-1}: what is told by a context counts as far as no longer one takes it away.
    left = 1.0
    touched = 0
    for k in range(length - 1, -1, -1):
        weight = left * shares_K[k] / (highs_K[k] - lows_K[k])
        left *= 1 - shares_K[k]
        if k == 0:
            last = context_T[len(context_T) - 1]
            for entry in range(begins_V[last], begins_V[last + 1]):
                token = follower_F[entry]
                if chances_V[token] == 0:
                    touched_V[touched] = token
                    touched += 1
                chances_V[token] += weight * count_F[entry]
            break
        place = lows_K[k]
        while place < highs_K[k]:
            end = end_of_follower(tokens_N, order_M, place, highs_K[k], k + 1)
            token = token_at(tokens_N, order_M[place] + k + 1)
            if 0 <= token < len(chances_V):
                if chances_V[token] == 0:
                    touched_V[touched] = token
                    touched += 1
                chances_V[token] += weight * (end - place)
            place = end
    return touched, left


def mix_logits(tokens_N, order_M, begins_V, follower_F, count_F, context_T, share_KC, most, total, logits_V):
    """Turn logits into the logarithms of the mixture's chances, in place.

    ``total`` is the logarithm of the sum of the logits' exponentials.
    """
    said_V = np.zeros(len(logits_V))
    touched_V = np.empty(len(logits_V), dtype=np.int64)
    touched, left = add_what_follows(
        tokens_N, order_M, begins_V, follower_F, count_F, context_T, share_KC, most, said_V, touched_V
    )
    shift = math.log(left) - total
    for v in range(len(logits_V)):
        logits_V[v] += shift
    for i in range(touched):
        v = touched_V[i]
        logits_V[v] = math.log(math.exp(logits_V[v]) + said_V[v])


def mix_chances(
    tokens_N,
    order_M,
    begins_V,
    follower_F,
    count_F,
    text_T,
    begins_T,
    start,
    share_KC,
    most,
    boundary,
    chances_TV,
):
    """Mix what the memory says into a model's chances of the tokens of a text from ``start`` on, in place.

    ``begins_T`` is where the document of what stands before a token begins, as in :func:`look_up`. Nobody asks for the
    chances of a boundary.
    """
    count, V = chances_TV.shape
    said_V = np.zeros(V)
    touched_V = np.zeros(V, dtype=np.int64)
    for place in range(count):
        t = start + place
        if text_T[t] == boundary:
            continue
        context_T = text_T[max(begins_T[t], t - len(share_KC)) : t]
        touched, left = add_what_follows(
            tokens_N, order_M, begins_V, follower_F, count_F, context_T, share_KC, most, said_V, touched_V
        )
        for v in range(V):
            chances_TV[place, v] *= left
        for i in range(touched):
            chances_TV[place, touched_V[i]] += said_V[touched_V[i]]
            said_V[touched_V[i]] = 0.0
