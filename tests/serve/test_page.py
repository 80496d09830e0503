"""The page in a real browser: text streams in with its colours, scores are those of the API, no other host is asked."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

import httpx
import pytest

from tests.serve.conftest import TEXT

SECONDS = 30_000  # of patience, in milliseconds


@pytest.fixture
def page(browser, served):
    """The loaded page; what it logs and what it asks for is looked at in the end."""
    page = browser.new_page()
    page.set_default_timeout(SECONDS)
    troubles, hosts = [], set()
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(served)
    page.troubles = troubles
    yield page
    page.close()
    assert page.troubles == []
    assert hosts == {urlsplit(served).netloc}


def tokens(page, where):
    """Return what is shown as (text, bits, colour) token by token."""
    return page.locator(f"#{where} .t").evaluate_all(
        "spans => spans.map(s => [s.textContent, Number(s.dataset.bits), getComputedStyle(s).backgroundColor])"
    )


def test_facts_are_shown(page):
    page.get_by_text("7.2500 bits per byte").wait_for()
    assert page.locator("#pattern").inner_text() == "qfaf"
    assert page.title() == "tiny · Weft"
    assert page.locator("#write .legend li").count() == 8


def at_first_token(page, action):
    """Let the page itself run ``action`` (JavaScript) when its first token is written: from here it may be too late."""
    page.evaluate(
        f"""() => new MutationObserver((_, observer) => {{
            if (!document.querySelector("#written .t:not(.given)")) return;
            observer.disconnect();
            {action};
        }}).observe(document.querySelector("#written"), {{childList: true, subtree: true}})"""
    )


def test_a_text_streams_in_with_its_colours(page, served):
    page.fill("#prompt", "Ruoŧŧa")
    page.fill("#seed", "5")
    page.locator("#length").fill("120")
    at_first_token(page, "window.streaming = !document.querySelector('#stop').disabled")
    page.click("#start")
    page.get_by_text("120 tokens").wait_for()
    assert page.evaluate("streaming"), "the first token came when all were written"
    settings = {"prompt": "Ruoŧŧa", "seed": 5, "max_new_tokens": 120}
    told = httpx.post(f"{served}/weft/generate", json=settings, timeout=60).json()
    shown = tokens(page, "written")
    assert "".join(text for text, _, _ in shown) == "Ruoŧŧa" + told["text"]
    bits = sum(token["bits"] for token in told["prompt"] + told["written"])
    assert sum(bits for _, bits, _ in shown) == pytest.approx(bits)
    assert page.locator("#written .given").all_inner_texts() == list("Ruoŧŧa")
    assert len({colour for _, _, colour in shown}) > 3
    for low, high in ((0, 1), (5, 7), (12, 1e9)):
        assert len({colour for _, bits, colour in shown if low <= bits < high}) <= 1


def test_a_token_that_is_pointed_at_tells_its_bits(page, served):
    page.click("#tab-score")
    page.fill("#pasted", "aŧ")
    page.click("#measure")
    second = page.locator("#scored .t").nth(1)
    second.hover()
    (_, first, last) = httpx.post(f"{served}/weft/score", json={"text": "aŧ"}).json()["documents"][0]
    bits = first["bits"] + last["bits"]
    tip = page.locator("#tip")
    assert f"{bits:.2f} bits, probability" in tip.inner_text()
    assert "(2 tokens)" in tip.inner_text()
    assert tip.inner_text().startswith("ŧ")
    page.locator("#scored").focus()
    page.keyboard.press("ArrowLeft")
    assert tip.inner_text().startswith("a")
    page.keyboard.press("Escape")
    assert tip.is_hidden()


@pytest.mark.parametrize("text", [TEXT.strip(), "a\n\n\nb <script>alert(1)</script>"])
def test_a_pasted_text_has_the_figures_of_the_api(page, served, text):
    told = httpx.post(f"{served}/weft/score", json={"text": text}).json()
    page.click("#tab-score")
    page.fill("#pasted", text)
    page.click("#measure")
    page.locator("#figure").wait_for()
    assert page.locator("#bits-per-byte").inner_text() == f"{told['bits_per_byte']:.4f}"
    assert f"{told['bits']:,.1f} bits · {told['bytes']} bytes" in page.locator("#totals").inner_text()
    shown = tokens(page, "scored")
    assert [text for text, _, _ in shown] == list("".join(text.split("\n\n\n")))
    assert sum(bits for _, bits, _ in shown) == pytest.approx(told["bits"])
    assert page.locator("#scored script, #scored b").count() == 0


def test_stop_stops(page):
    page.locator("#length").fill("1000")
    at_first_token(page, "document.querySelector('#stop').click()")
    page.click("#start")
    page.get_by_text("Stopped (seed").wait_for()
    assert page.locator("#start").is_enabled()
    assert len(tokens(page, "written")) < 1000
    page.locator("#length").fill("10")
    page.click("#start")
    page.get_by_text("10 tokens").wait_for()


def test_an_error_is_a_sentence(page):
    page.click("#tab-score")
    page.click("#measure")
    error = page.locator("#score-error")
    error.wait_for()
    assert error.inner_text().startswith("'text' must be a string that is not empty")
    page.troubles[:] = [text for text in page.troubles if "422" not in text]  # the browser logs the status


def test_dark_and_light_and_narrow(browser, served):
    """Nothing is wider than a telephone, and text can be read on every colour (WCAG AA: 4.5 to 1)."""
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme=scheme)
        page.goto(served)
        page.fill("#prompt", "漢字" * 100)
        page.locator("#length").fill("150")
        page.click("#start")
        page.get_by_text("150 tokens").wait_for(timeout=SECONDS)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        pairs = page.evaluate(
            """() => [...Array(8).keys()].map(number => {
              const span = document.createElement("span");
              span.className = `t h${number}`;
              document.getElementById("written").append(span);
              const style = getComputedStyle(span);
              return [style.color, style.backgroundColor, getComputedStyle(document.body).backgroundColor];
            })"""
        )
        assert min(contrast(ink, paper if clear(paint) else paint) for ink, paint, paper in pairs) >= 4.5
        page.close()


def clear(colour: str) -> bool:
    return colour == "rgba(0, 0, 0, 0)"


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, as WCAG defines it."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [part / 255 for part in json.loads(colour.replace("rgb(", "[").replace(")", "]"))]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
