"""A knob draws its pictures in advance, as differences, and says what each shows."""
import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tools import live


@pytest.fixture
def knobs(monkeypatch):
    "nbs/figures/knobs.py, with what it would display."
    from figures import knobs

    monkeypatch.setattr(knobs, "shown", [], raising=False)
    monkeypatch.setattr(knobs, "display", lambda data, raw: knobs.shown.append(data))
    monkeypatch.setattr("figures.losses.display", lambda picture: None)
    monkeypatch.delenv("IN_TEST", raising=False)
    return knobs


def two_bars(height=1, colour="red"):
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(2, 1), dpi=50)
    axis.bar([0, 1], [1, height], color=colour)
    axis.set(title=f"the second is {height}", ylim=(0, 4))
    return figure


def show_bars(knobs, **options):
    import ipywidgets

    knobs.knob(two_bars, words={"height": "{} high", "colour": "{}"}, height=ipywidgets.IntSlider(1, 0, 4, description="h"),
               colour=["red", "blue"], **options)
    return knobs.shown.pop()


def opened(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGBA")).astype(int)


def frame_of(data, k):
    "A frame as the page puts it together."
    frames = data[live.FRAMES]
    if not frames["frames"][k]:
        return opened(data["image/png"])
    below, layer = frame_of(data, frames["below"][k]), opened(frames["frames"][k])
    return np.where(layer[..., 3:] == 255, layer, below)


def test_each_combination_is_a_frame_that_is_the_figure(knobs):
    "To the nearest of the colours that the frames share. A frame is much smaller than a picture."
    data = show_bars(knobs)
    frames = data[live.FRAMES]
    assert len(frames["frames"]) == len(frames["says"]) == 5 * 2 and frames["controls"][0]["start"] == 1
    assert frames["says"][2 * 3 + 1] == "3 high; blue; the second is 3"
    for k in range(10):
        drawn = knobs.picture_of(two_bars(k // 2, ("red", "blue")[k % 2])).astype(int)
        assert np.abs(frame_of(data, k)[..., :3] - drawn).mean() < 4
    assert len({frame_of(data, k).tobytes() for k in range(10)}) == 10
    assert max(map(len, frames["frames"])) < len(data["image/png"])


def test_the_live_controls_stay_what_a_notebook_shows(knobs):
    data = show_bars(knobs)
    assert "model_id" in data["application/vnd.jupyter.widget-view+json"]


def test_some_values_may_stand_for_all_but_the_first_must_be_among_them(knobs):
    frames = show_bars(knobs, stored={"height": (1, 4)})[live.FRAMES]
    assert frames["controls"][0]["words"] == ["1 high", "4 high"] and len(frames["frames"]) == 4
    with pytest.raises(ValueError, match="height: found 1 as its first value, expected one of"):
        show_bars(knobs, stored={"height": (0, 4)})


def test_the_tests_of_a_notebook_draw_the_first_value_and_the_last(knobs, monkeypatch):
    monkeypatch.setenv("IN_TEST", "1")
    frames = show_bars(knobs)[live.FRAMES]
    assert frames["controls"][0]["words"] == ["1 high", "4 high"]


def test_a_page_without_scripts_shows_the_first_picture_with_its_words(knobs):
    page = live.knob_html(show_bars(knobs), 'Bars, "one" & another.')
    assert 'alt="Bars, &quot;one&quot; &amp; another. 1 high; red; the second is 1"' in page
    assert page.count("<img") == 1 and page.count("</script>") == 1


def test_a_knob_is_moved_with_the_keyboard(knobs, new_page, project, tmp_path):
    script = (project / "nbs" / "knobs.js").read_text(encoding="utf-8")
    data = show_bars(knobs)
    (tmp_path / "page.html").write_text(f"<!doctype html><meta charset=utf-8><script>{script}</script>{live.knob_html(data, 'Bars.')}", encoding="utf-8")
    page = new_page()
    page.goto((tmp_path / "page.html").as_uri())
    knob, canvas = page.locator(".stal-knob"), page.locator(".stal-knob canvas")
    page.wait_for_selector(".stal-knob[data-shown='2']")
    page.get_by_label("h", exact=True).focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".stal-knob[data-shown='4']")
    assert page.get_by_label("h", exact=True).get_attribute("aria-valuetext") == "2 high" == knob.locator("output").inner_text()
    page.get_by_label("colour").select_option("blue")
    page.wait_for_selector(".stal-knob[data-shown='5']")
    assert canvas.get_attribute("aria-label") == "Bars. 2 high; blue; the second is 2"
    pixels = canvas.evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
    assert np.abs(np.array(pixels).reshape(50, 100, 4) - frame_of(data, 5)).max() <= 1
    assert page.problems == [] and json.loads(page.locator("script[type='application/json']").inner_text())["alt"] == "Bars."
