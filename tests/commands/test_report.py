"""The page of a session, as a user opens it: from what it holds to what a click does.

The clicks need Chromium and its driver, without which their tests are skipped.
"""

import json
import re
import shutil

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,1000",
)
THREE_CASES = "".join(
    f"{name},{name}/T1.nii.gz,{name}/FLAIR.nii.gz,{name}/labels.nii.gz,{name}/roi.nii.gz\n"
    for name in "bcd"
)
HEADER = "case,channel_T1,channel_FLAIR,labels,roi\n"


@pytest.fixture(scope="module")
def tested(trained, tmp_path_factory, begin):
    """A folder in which three cases were segmented, with maps of uncertainty."""
    folder = tmp_path_factory.mktemp("tested") / "place"
    shutil.copytree(trained.path, folder)
    (folder / "data/test.csv").write_text(HEADER + THREE_CASES)
    settings = (folder / "test.yaml").read_text()
    settings = settings.replace("  pictures: false", "  pictures: false\n  uncertainty: [entropy]")
    (folder / "test.yaml").write_text(settings)
    model = folder / "runs/training/models/last.save"
    assert begin("-test", str(folder / "test.yaml"), "-model", str(model), "-quiet") == 0
    return folder / "runs/results"


def page(session):
    return (session / "report.html").read_text("utf-8")


def embedded(text):
    """The slices of the cases, in their order."""
    blocks = re.findall(r'<script type="application/json" class="case">(.*?)</script>', text)
    return [json.loads(block) for block in blocks]


def headings(text):
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_the_page_of_a_test_holds_scores_slices_weights_and_settings(tested):
    text = page(tested)
    assert headings(text) == ["Mean scores", "Cases, worst first", "Slices", "Weights", "Settings"]
    cases = json.loads((tested / "cases.json").read_text())["cases"]
    dice = {
        name: (case["scores"]["rim"]["dice"] + (case["scores"]["core"]["dice"] or 0))
        / (1 if case["scores"]["core"]["dice"] is None else 2)
        for name, case in cases.items()
    }
    views = embedded(text)
    assert [view["name"] for view in views] == sorted(dice, key=dice.get)
    for view in views:
        for plane in view["planes"].values():
            assert list(plane["channels"]) == ["T1", "FLAIR"]
            assert list(plane["uncertainty"]) == ["entropy"]
    assert "save.uncertainty" in text
    assert "trained by training" in text


def test_the_page_of_a_training_holds_curves_data_and_when_layers_were_frozen(trained):
    text = page(trained / "runs/training")
    assert headings(text) == [
        "Result", "Curves", "Cases, worst first", "Slices", "Data", "Frozen layers", "Weights",
        "Settings",
    ]  # fmt: skip
    assert text.count("<svg") == 2  # curves and network
    assert "Dice on whole volumes" in text
    assert "<td>1 to 2</td><td>none</td>" in text
    assert [view["name"] for view in embedded(text)] == ["c"]


def test_a_page_without_slices_says_so_and_none_is_written_where_none_is_wanted(
    model, place, command
):
    place.write("test.yaml", (place / "test.yaml").read_text() + "report: false\n")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert not (place / "runs/results/report.html").exists()
    place.edit("test.yaml", "report: false", "report: true")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    text = page(place / "runs/results")
    assert embedded(text) == []
    assert "No slices here" in text


def test_slices_of_an_older_result_are_not_shown_with_a_new_one(model, place, command):
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    stored = place / "runs/results/slices/d.json"
    old = json.loads(stored.read_text())
    stored.write_text(json.dumps({**old, "key": "another"}))
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert embedded(page(place / "runs/results")) == []
    stored.write_text("{")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert embedded(page(place / "runs/results")) == []


def test_a_page_of_the_users_own_is_kept(model, place, command):
    (place / "runs/results").mkdir(parents=True)
    place.write("runs/results/report.html", "mine")
    result = command("-test", "test.yaml", "-model", model)
    assert result.returncode == 0
    assert any("[result-changed]" in line and "report.html" in line for line in result.warnings)
    assert (place / "runs/results/set_aside/report.html").read_text() == "mine"
    again = command("-test", "test.yaml", "-model", model)
    assert not any("[result-changed]" in line for line in again.warnings)


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if BROWSER is None or DRIVER is None:
        pytest.skip("no Chromium on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for option in (*OPTIONS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, tested):
    """The page of the test, with the first case drawn and nothing on the console."""
    browser.get((tested / "report.html").as_uri())
    wait_for(browser, "document.querySelectorAll('details[open] figcaption')[2].textContent")
    yield browser
    assert browser.get_log("browser") == []


def wait_for(browser, expression):
    """Wait until an expression of JavaScript is true; give its value."""
    return browser.execute_async_script(
        "const done = arguments[0]; const look = () => { let value; try { value = "
        f"{expression} }} catch {{ value = null }} value ? done(value) : setTimeout(look, 30) }};"
        "look()"
    )


def picture(browser, number=0):
    script = f"return document.querySelectorAll('details[open] canvas')[{number}].toDataURL()"
    return browser.execute_script(script)


def changed(browser, before, number=0):
    """The picture of a plane once it is another one."""
    canvas = f"document.querySelectorAll('details[open] canvas')[{number}]"
    return wait_for(
        browser, f"{canvas}.toDataURL() !== {json.dumps(before)} && {canvas}.toDataURL()"
    )


def click(browser, selector):
    browser.execute_script(f"document.querySelector({json.dumps(selector)}).click()")


@pytest.mark.slow
def test_every_layer_can_be_switched_on_and_off(opened):
    for layer in ("truth", "prediction", "errors", "entropy"):
        before, box = picture(opened), f"details[open] input[value={layer}]"
        click(opened, box)
        switched = changed(opened, before)
        click(opened, box)
        assert changed(opened, switched) == before


@pytest.mark.slow
def test_the_wheel_and_the_keys_scroll_through_the_slices(opened):
    caption = "document.querySelector('details[open] figcaption').textContent"
    first = wait_for(opened, caption)
    assert re.fullmatch(r"axial, -?[\d.]+ mm \(slice \d+ of 22\)", first)
    canvas = "document.querySelector('details[open] canvas')"
    opened.execute_script(
        f"{canvas}.dispatchEvent(new WheelEvent('wheel', {{deltaY: 1, cancelable: true}}))"
    )
    second = wait_for(opened, f"{caption} !== {json.dumps(first)} && {caption}")
    opened.execute_script(
        f"{canvas}.dispatchEvent(new KeyboardEvent('keydown', {{key: 'ArrowUp'}}))"
    )
    assert wait_for(opened, f"{caption} !== {json.dumps(second)} && {caption}") == first


@pytest.mark.slow
def test_another_channel_is_another_picture(opened):
    before = picture(opened)
    second = (
        "T1"
        if opened.execute_script(
            "return document.querySelector('details[open] input[value=FLAIR]').checked"
        )
        else "FLAIR"
    )
    click(opened, f"details[open] input[value={second}]")
    assert changed(opened, before) != before


@pytest.mark.slow
def test_a_click_on_a_heading_sorts_the_table_and_a_link_opens_its_case(opened):
    script = (
        "return [...document.querySelectorAll('#cases-worst-first tbody tr')]"
        ".map((row) => Number(row.cells[1].dataset.value))"
    )
    heading = "#cases-worst-first th:nth-child(2)"
    click(opened, heading)
    ascending = opened.execute_script(script)
    click(opened, heading)
    assert ascending == sorted(ascending)
    assert opened.execute_script(script) == ascending[::-1]
    assert len(set(ascending)) == 3
    assert opened.execute_script("return document.querySelectorAll('details[open]').length") == 1
    click(opened, "#cases-worst-first tbody tr:first-child a")
    wait_for(opened, "document.querySelectorAll('details[open] canvas').length === 6")
