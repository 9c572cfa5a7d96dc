"""The pages in a real browser: nothing fails there, all is drawn, the controls do what they say."""

import json
import random
import shutil

import pytest

from gdsd_jax.report import page
from tests.report.rows import row

EVIL = "</pre><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"
ROUNDS, PROBLEMS = 1000, 64


@pytest.fixture(scope="module")
def chromium():
    """A headless browser; without one the tests are skipped."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright: pip install playwright"
    )
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    with playwright.sync_playwright() as started:
        try:
            found = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except playwright.Error as error:
            reason = str(error).strip().splitlines()[0]
            pytest.skip(f"no Chromium: apt install chromium ({reason})")
        yield found
        found.close()


def rows_of(rounds):
    """A run in which everything is measured."""
    rng, rows = random.Random(0), [row("sft", 10, 1.0, loss=3.0)]
    for number in range(rounds + 1):
        share = number / rounds
        if number % 20 == 0:
            values = dict(pass_at_1=share, mean_reward=share / 2, reward=share, looping=0.1)
            rows.append(row("eval", number, 60.0 * number, format=rng.random(), **values))
        if number == rounds:
            break
        values = {key: rng.random() for key in ("reward", "tests", "format", "distinct")}
        values |= dict(length=20 + number / 10, tokens_per_s=100.0, rollout_s=9.0)
        rows.append(row("rollout", number + 1, 60.0 * number, **values))
        for _ in range(4):
            values = {key: rng.random() for key in ("loss", "kl", "trust", "move", "target")}
            values |= dict(grad_norm=rng.lognormvariate(0, 2), update_s=3.0, slope_snr=0.1)
            rows.append(row("train", 4 * number + 1, 60.0 * number, **values))
    return rows


def kept_of(name):
    """Answers whose rewards are 0, 7, 14, ... modulo their number, and two whose order is known."""
    kept = []
    for number in range(PROBLEMS):
        reward = 7 * number % PROBLEMS
        grades = {"reward": reward, "solved": number % 2, "tests": 0.5, "format": number / 64}
        text = f"{name} {EVIL} " + "word " * 200
        one = {"question": f"Question {number + 1}?", "text": text, "grades": grades}
        warm = {"reward": number, "tests": number / 64}
        one["sampled"] = {"text": f"warm {name} {number + 1}", "grades": warm}
        if number < 2:
            one["order"] = [["some", 1], [" words", 3], [EVIL, 2]]
        kept.append(one)
    return kept


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of 1,000 rounds with 64 problems."""
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "samples").mkdir()
    config = {"name": "a long run", "score": "tests", "gdsd": {"psi": 5.0}}
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [json.dumps(one) + "\n" for one in rows_of(ROUNDS)]
    (workdir / "metrics.jsonl").write_text("".join(lines))
    for number, name in ((0, "old"), (ROUNDS, "new")):
        path = workdir / "samples" / f"{number:06}.json"
        path.write_text(json.dumps(kept_of(name)))
    page.write_report(workdir)
    return workdir


@pytest.fixture
def opened(chromium, workdir):
    """Opens the page of the run at some width; nothing may be asked for or fail meanwhile."""
    said = []

    def start(width=1280, scheme="light", file="report.html"):
        address = (workdir / file).as_uri()
        tab = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: request.url == address or said.append(request.url))
        tab.goto(address)
        return tab

    yield start
    assert said == []


def shown(tab):
    """The numbers of the problems that are seen, from above."""
    cards = tab.locator("#problems > article:visible")
    return [int(number) for number in cards.evaluate_all("all => all.map(x => x.dataset.number)")]


@pytest.mark.slow
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (400, "dark")])
def test_every_picture_is_drawn(opened, width, scheme):
    tab = opened(width, scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(x => x.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") == width, "nothing is cut off"
    for figure in tab.locator("figure").all():
        name = figure.get_attribute("aria-label")
        (box,) = [svg.bounding_box() for svg in figure.locator("svg:visible").all()]
        assert box["width"] > 200 and box["height"] > 100, name
        lines = figure.locator("svg:visible path[style*='stroke: var(--hue']")
        assert lines.count() >= 1, name
    assert tab.locator("figure").count() >= 12
    orders = tab.locator(".strip svg")
    assert orders.count() == 2
    for place in range(2):
        marks = orders.nth(place).locator("rect").all()
        boxes = [mark.bounding_box() for mark in marks]
        assert [box["width"] > 1 and box["height"] > 1 for box in boxes] == [True] * 3
        assert boxes[0]["x"] < boxes[1]["x"] and boxes[0]["y"] > boxes[2]["y"] > boxes[1]["y"]
    assert tab.evaluate("window.evil") is None


@pytest.mark.slow
def test_problems_are_filtered_and_sorted(opened):
    tab = opened()
    controls = tab.locator(".controls")
    assert shown(tab) == list(range(1, 13)) and "12 of 64" in controls.inner_text()
    controls.locator("[name=sort]").select_option("best")
    rewards = {number + 1: 7 * number % PROBLEMS for number in range(PROBLEMS)}
    best = sorted(rewards, key=rewards.get, reverse=True)
    assert shown(tab) == best[:12]
    tab.locator("#more").click()
    assert shown(tab) == best and not tab.locator("#more").is_visible()
    controls.locator("[name=sort]").select_option("worst")
    assert shown(tab) == best[::-1]
    controls.locator("[name=problem]").select_option("17")
    assert shown(tab) == [17]
    answers = tab.locator("#problems pre:visible")
    old, new = answers.all_inner_texts()
    assert old.startswith("old") and new.startswith("new") and EVIL in new
    controls.locator("[name=kind]").select_option("temperature 1")
    assert answers.all_inner_texts() == ["warm old 17", "warm new 17"]
    controls.locator("[name=problem]").select_option("")
    controls.locator("[name=text]").fill("QUESTION 6")
    assert sorted(shown(tab)) == [6, 60, 61, 62, 63, 64]
    controls.locator("[name=text]").fill("nothing like it")
    assert shown(tab) == [] and "0 of 64" in controls.inner_text()


@pytest.mark.slow
def test_problems_are_sorted_by_the_answers_that_are_shown(opened):
    tab = opened()
    controls = tab.locator(".controls")
    controls.locator("[name=sort]").select_option("best")
    assert shown(tab)[:2] == [10, 19], "rewards 63 and 62"
    controls.locator("[name=kind]").select_option("temperature 1")
    assert shown(tab) == list(range(64, 52, -1))
    controls.locator("[name=sort]").select_option("worst")
    assert shown(tab) == list(range(1, 13))


@pytest.mark.slow
def test_the_search_is_for_what_is_shown(opened):
    """Neither for grades, nor for numbers of problems, nor for hidden answers."""
    tab = opened()
    controls = tab.locator(".controls")
    for text, kind, found in (
        ("warm new 2", 0, []),
        ("warm new 2", 1, [2, *range(20, 30)]),
        ("window.evil", 0, list(range(1, 13))),
        ("window.evil", 1, []),
        ("tests", 0, []),
        ("not solved", 0, []),
        ("17question", 0, []),
        ("question 17?", 1, [17]),
    ):
        controls.locator("[name=kind]").select_option(f"temperature {kind}")
        controls.locator("[name=text]").fill(text)
        assert shown(tab) == found, text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_a_filter_shows_the_beginning_of_what_it_found(opened, width):
    tab = opened(width)
    controls, first = tab.locator(".controls"), tab.locator("#problems > article:visible").first
    start = tab.evaluate("scrollY")
    controls.scroll_into_view_if_needed()
    controls.locator("[name=sort]").select_option("worst")
    if width == 1280:  # elsewhere the bar does not go along
        tab.locator("#more").click()
        tab.locator("#problems > article").nth(50).scroll_into_view_if_needed()
        deep = tab.evaluate("scrollY")
        assert controls.bounding_box()["y"] == 0
        tab.locator("[name=sort]").select_option("best")
        assert start < tab.evaluate("scrollY") < deep
    for problem in ("17", ""):
        controls.locator("[name=problem]").select_option(problem)
        bar, card = controls.bounding_box(), first.bounding_box()
        assert bar["y"] >= 0 and bar["y"] + bar["height"] <= card["y"] < 900


@pytest.mark.slow
def test_the_bar_stays_with_the_answers(opened):
    tab = opened()
    bar = tab.locator(".controls")
    places = {"Unmasking": "orders", "Configuration": "configuration", "mean": "meanings"}
    for link, place in places.items():
        tab.get_by_role("link", name=link).click()
        box, heading = bar.bounding_box(), tab.locator(f"#{place}").bounding_box()
        assert box["y"] + box["height"] <= heading["y"] < 900, link
    tab.get_by_role("link", name="Answers").click()
    assert 0 <= tab.locator("#answers h2").bounding_box()["y"] < bar.bounding_box()["y"]


@pytest.mark.slow
def test_links_open_what_is_folded(opened):
    tab = opened()
    folded = tab.locator("details")
    assert folded.count() == 3
    for place, link in enumerate(("Further numbers", "Configuration", "What the numbers mean")):
        assert not folded.nth(place).evaluate("one => one.open")
        tab.get_by_role("link", name=link).click()
        assert folded.nth(place).evaluate("one => one.open")
        assert 0 <= folded.nth(place).locator("summary").bounding_box()["y"] < 900
        folded.nth(place).evaluate("one => one.open = false")
        tab.get_by_role("link", name=link).click()  # the address stays
        assert folded.nth(place).evaluate("one => one.open")
    tab.evaluate("document.querySelectorAll('details').forEach(x => x.open = false)")
    tab.evaluate("location.hash = '#Further-numbers'")
    tab.wait_for_function("document.querySelectorAll('details')[0].open")


@pytest.mark.slow
def test_an_address_opens_what_is_folded(chromium, workdir):
    tab = chromium.new_page()
    tab.goto(f"{(workdir / 'report.html').as_uri()}#meanings")
    tab.wait_for_function("document.querySelectorAll('details')[2].open")
    assert 0 <= tab.locator("#meanings").bounding_box()["y"] < 700


@pytest.mark.slow
def test_before_and_after_stand_side_by_side(opened):
    for width, beside in ((1280, True), (400, False)):
        tab = opened(width)
        first, second = tab.locator("#problems pre:visible").all()[:2]
        assert (first.bounding_box()["y"] == second.bounding_box()["y"]) == beside


@pytest.mark.slow
def test_a_long_run_opens_fast(opened):
    """The best of three: the machine may be busy."""
    timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
    seconds = [opened().evaluate(timing) / 1000 for _ in range(3)]
    assert 0 < min(seconds) < 2


@pytest.mark.slow
def test_no_other_script_runs(chromium, workdir):
    tab = chromium.new_page()
    said = []
    tab.on("console", lambda message: said.append(message.text))
    tab.goto((workdir / "report.html").as_uri())
    tab.evaluate(
        "document.body.append(Object.assign(document.createElement('script'),"
        " {textContent: 'window.evil = 1'}))"
    )
    assert tab.evaluate("window.evil") is None
    assert any("Content Security Policy" in line for line in said)


@pytest.mark.slow
def test_runs_side_by_side(opened, workdir):
    rows = rows_of(40)
    runs = {"one": [rows, rows], "two": [rows[:50]]}
    text = page.comparison_page("Two", "seeds", runs, [["", "one"], ["a", "1"]], "tests")
    (workdir / "runs.html").write_text(text)
    for width in (1280, 400):
        tab = opened(width, file="runs.html")
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        pictures = tab.locator("figure svg:visible").all()
        assert len(pictures) == tab.locator("figure").count() >= 6
        assert all(svg.bounding_box()["width"] > 200 for svg in pictures)
