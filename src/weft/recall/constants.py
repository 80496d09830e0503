"""How contexts are told apart; what follows a context is trusted by its class."""

SEEN_CLASSES = 12  # of how often a context was seen, by powers of two
FOLLOWERS_ONE_BY_ONE = 4
FOLLOWER_CLASSES = 8  # of how many tokens followed it: 1, 2, 3, 4, up to 7, up to 15, up to 31, more
MOST_FOLLOWERS = 32  # that are counted: classes tell no more apart
CLASSES = SEEN_CLASSES * FOLLOWER_CLASSES
LONGEST = 16  # tokens of a context
