"""Console: what reaches screen and log, on streams of every kind, with a clock set by hand."""

import io
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseg.errors import OutputNotWritable
from deepseg.report.console import Console
from deepseg.report.progress import duration
from deepseg.report.tables import plain_table

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


class Gone(io.StringIO):
    def write(self, _text):
        raise BrokenPipeError(32, "Broken pipe")


def ascii_stream():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="\n")


def written(stream):
    stream.flush()
    return stream.buffer.getvalue().decode("ascii")


def log_lines(file):
    """Lines of a log without their time stamps, each of which is looked at."""
    lines = file.read_text(encoding="utf-8").splitlines()
    result = [re.fullmatch(rf"{STAMP}(?: (.*))?", line) for line in lines]
    assert all(result), lines
    return [match.group(1) or "" for match in result]


def test_normal_lines_go_to_stdout_and_alarms_to_stderr(capsys):
    console = Console()
    console.say("epoch 1")
    console.say()
    console.warn("class 'oedema' is in no case")
    console.error("first\nsecond")
    out, err = capsys.readouterr()
    assert out == "epoch 1\n\n"
    assert err == "WARNING class 'oedema' is in no case\nERROR first\nERROR second\n"


def test_the_log_gets_every_line_with_a_time_stamp_behind_the_lines_of_earlier_runs(
    tmp_path, capsys
):
    file = tmp_path / "log.txt"
    for run in ("run 1", "run 2"):
        with Console(log_file=file) as console:
            console.say(f"{run}\nOédème")
            console.warn("odd")
            console.error("broken")
    one_run = ["Oédème", "WARNING odd", "ERROR broken"]
    assert log_lines(file) == ["run 1", *one_run, "run 2", *one_run]


def test_a_line_is_in_the_log_at_once(tmp_path, capsys):
    console = Console(log_file=tmp_path / "log.txt")
    console.say("now")
    assert log_lines(tmp_path / "log.txt") == ["now"]
    console.close()


def test_the_same_warning_is_said_once_and_remembered(tmp_path, capsys):
    with Console(log_file=tmp_path / "log.txt") as console:
        for text in ("a", "b", "a"):
            console.warn(text)
    assert console.warnings == ["a", "b"]
    assert capsys.readouterr().err == "WARNING a\nWARNING b\n"
    assert log_lines(tmp_path / "log.txt") == ["WARNING a", "WARNING b"]


def test_quiet_shows_alarms_only_but_the_log_gets_everything(tmp_path, capsys):
    with Console(log_file=tmp_path / "log.txt", quiet=True, clock=Clock()) as console:
        console.say("hello")
        console.table("network", ["layer"], [["1"]])
        with console.progress("cases", 2) as advance:
            advance(2)
        console.warn("odd")
        console.error("broken")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "WARNING odd\nERROR broken\n"
    assert log_lines(tmp_path / "log.txt") == [
        "hello",
        "network",
        "layer",
        "-----",
        "    1",
        "cases: 2/2 in 0.0 s",
        "WARNING odd",
        "ERROR broken",
    ]


def test_characters_that_a_stream_does_not_know_are_spelt_out():
    stream = ascii_stream()
    console = Console(stream=stream, clock=Clock())
    console.say("Oédème \u2014 病")
    console.table("Größe", ["ü"], [["ö"]])
    with console.progress("é", 1) as advance:
        advance(note="ß")
    assert written(stream) == (
        "O\\xe9d\\xe8me \\u2014 \\u75c5\n"
        "Gr\\xf6\\xdfe\n\\xfc\n-\n\\xf6\n"
        "\\xe9: 1/1 in 0.0 s, \\xdf\n"
    )


def test_file_names_that_are_not_utf8_can_be_said(tmp_path, capsys, monkeypatch):
    name = b"case_\xff.nii".decode("utf-8", "surrogateescape")
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in "12")
    monkeypatch.setattr(sys, "stderr", err)
    with Console(log_file=tmp_path / "log.txt", stream=out) as console:
        console.say(name)
        console.warn(name)
    assert out.buffer.getvalue() == b"case_\\udcff.nii\n"
    assert err.buffer.getvalue() == b"WARNING case_\\udcff.nii\n"
    assert log_lines(tmp_path / "log.txt") == [
        "case_\\udcff.nii",
        "WARNING case_\\udcff.nii",
    ]


def test_a_terminal_that_knows_ascii_only_gets_no_other_character():
    stream = ascii_stream()
    stream.isatty = lambda: True
    console = Console(stream=stream, clock=Clock())
    console.say("é")
    console.table("Größe", ["class", "Dice"], [["ö", "0.5"]])
    with console.progress("ß", 3) as advance:
        advance(3)
    assert "Gr\\xf6\\xdfe" in written(stream)


def test_control_codes_are_sent_to_terminals_only():
    def speak(stream):
        console = Console(stream=stream, clock=Clock())
        console.table("network", ["layer"], [["1"]])
        with console.progress("cases", 2) as advance:
            advance(2)
        return stream.getvalue()

    assert "\x1b" in speak(Terminal())
    assert "\x1b" not in speak(io.StringIO())


def test_a_dumb_terminal_is_a_file(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    console = Console(stream=stream, clock=Clock())
    with console.progress("cases", 2) as advance:
        advance(2)
    assert stream.getvalue() == "cases: 2/2 in 0.0 s\n"


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_control_characters_in_a_text_are_spelt_out(stream, tmp_path):
    stream = stream()
    with Console(log_file=tmp_path / "log.txt", stream=stream) as console:
        console.say("a\x1b[2Jb\rc\x9bd")
    assert stream.getvalue() == "a\\x1b[2Jb\\x0dc\\x9bd\n"
    assert log_lines(tmp_path / "log.txt") == ["a\\x1b[2Jb\\x0dc\\x9bd"]


def test_a_terminal_shows_brackets_as_they_are_and_breaks_lines_between_words(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    path = "/data/" + "q" * 150
    text = f"[segment-too-small] :smile: {'word ' * 40}end {path} end"
    Console(stream=stream).say(text)
    lines = stream.getvalue().splitlines()
    assert len(lines) > 3
    assert [word for line in lines for word in line.split()] == text.split()
    assert max(len(line) for line in lines if path not in line) <= 80


def test_a_table_on_a_terminal_breaks_no_word(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    words = [f"word{number}" for number in range(12)]
    Console(stream=stream).table(
        "t", ["layer", "text"], [["imported1.encoder.conv", " ".join(words)]]
    )
    shown = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert set(words) <= set(shown.split())
    assert max(map(len, shown.splitlines())) <= 40


def test_a_reader_that_has_gone_away_does_not_end_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    with Console(log_file=tmp_path / "log.txt", stream=Gone(), clock=Clock()) as console:
        console.say("still here")
        console.warn("odd")
    assert log_lines(tmp_path / "log.txt") == ["still here", "WARNING odd"]


def test_no_stdout_at_all_does_not_end_the_run(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    console = Console()
    console.say("nobody hears")
    console.warn("odd")
    assert console.warnings == ["odd"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_grow_is_given_up_with_one_warning(capsys):
    with Console(log_file=Path("/dev/full")) as console:
        console.say("one")
        console.say("two")
    out, err = capsys.readouterr()
    assert out == "one\ntwo\n"
    assert err == "WARNING the log file /dev/full ends here: No space left on device\n"


def test_a_log_that_cannot_be_opened_is_refused(tmp_path):
    with pytest.raises(OutputNotWritable) as refusal:
        Console(log_file=tmp_path / "nowhere" / "log.txt")
    assert str(refusal.value) == (
        f"[log-not-writable] {tmp_path}/nowhere/log.txt: got No such file or directory; "
        "expected a log file that can be written; "
        "fix: free disk space, change the permissions or choose another output folder"
    )


def test_plain_progress_says_a_line_every_thirty_seconds_and_one_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with Console(stream=stream, clock=clock).progress("epoch 3", 20) as advance:
        for step in range(1, 21):
            clock.now += 8
            advance(note=f"loss {1 / step:.2f}")
    assert stream.getvalue() == (
        "epoch 3: 4/20, ETA 2 min 08 s, loss 0.25\n"  # 32 s are over, 16 steps of 8 s to go
        "epoch 3: 8/20, ETA 1 min 36 s, loss 0.12\n"
        "epoch 3: 12/20, ETA 1 min 04 s, loss 0.08\n"
        "epoch 3: 16/20, ETA 32 s, loss 0.06\n"
        "epoch 3: 20/20 in 2 min 40 s, loss 0.05\n"
    )


def test_plain_progress_counts_several_steps_at_once_and_needs_no_note():
    clock, stream = Clock(), io.StringIO()
    with Console(stream=stream, clock=clock).progress("voxels", 300) as advance:
        clock.now += 30
        advance(100)
        clock.now += 29.9
        advance(150)
        clock.now += 0.1
        advance(0)
    assert stream.getvalue() == (
        "voxels: 100/300, ETA 1 min 00 s\n"
        "voxels: 250/300, ETA 12 s\n"
        "voxels: 250/300 in 1 min 00 s\n"
    )


def test_progress_without_a_first_step_has_no_known_end():
    clock, stream = Clock(), io.StringIO()
    with Console(stream=stream, clock=clock).progress("cases", 5) as advance:
        clock.now += 31
        advance(0, note="reading")
    assert stream.getvalue().splitlines()[0] == "cases: 0/5, ETA unknown, reading"


@pytest.mark.parametrize("make_stream", [Terminal, io.StringIO])
def test_progress_that_is_broken_off_says_where(make_stream):
    clock, stream = Clock(), make_stream()

    def interrupted():
        with Console(stream=stream, clock=clock).progress("cases", 5) as advance:
            advance(2)
            clock.now += 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "cases: 2/5, stopped after 7.0 s\n" in stream.getvalue()
    assert "in 7.0 s" not in stream.getvalue()


def test_a_bar_shows_count_rate_time_and_note_and_leaves_its_last_line(tmp_path):
    clock, stream = Clock(), Terminal()
    console = Console(stream=stream, clock=clock, log_file=tmp_path / "log.txt")
    with console, console.progress("fold [b]", 8) as advance:
        for _ in range(4):
            clock.now += 10
            advance(note="loss [b]")
        console.say("a line above the bar")
        console._bars.refresh()  # in a session, a thread does this four times a second
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", stream.getvalue())
    bar = next(line for line in shown.splitlines() if "4/8" in line)
    assert re.fullmatch(r"\s*fold \[b\] \S+ +4/8 10\.0 s each ETA 0:00:40 loss \[b\]\s*", bar)
    assert "a line above the bar\n" in shown
    assert "3/8, ETA" not in shown
    assert shown.rstrip().endswith("fold [b]: 4/8 in 40 s, loss [b]")
    assert log_lines(tmp_path / "log.txt") == [
        "fold [b]: 3/8, ETA 50 s, loss [b]",
        "a line above the bar",
        "fold [b]: 4/8 in 40 s, loss [b]",
    ]


@pytest.mark.parametrize("make_stream", [Terminal, io.StringIO])
def test_progress_inside_progress(make_stream):
    stream = make_stream()
    console = Console(stream=stream, clock=Clock())
    with console.progress("cases", 2) as next_case:
        for case in ("a", "b"):
            with console.progress(f"tiles of {case}", 3) as next_tile:
                next_tile(3)
            next_case()
    with console.progress("again", 1) as advance:
        advance()
    ends = [line for line in stream.getvalue().splitlines() if " in 0.0 s" in line]
    names = [re.search(r"(tiles of .|cases|again): \d", line).group(1) for line in ends]
    assert names == ["tiles of a", "tiles of b", "cases", "again"]


def test_an_inner_bar_goes_and_the_outer_one_stays():
    console = Console(stream=Terminal(), clock=Clock())
    with console.progress("cases", 2):
        with console.progress("tiles", 3):
            assert [bar.description for bar in console._bars.tasks] == ["cases", "tiles"]
        assert [bar.description for bar in console._bars.tasks] == ["cases"]
    assert console._bars is None


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (3 * 3600 + 7 * 60 + 20, "3 h 07 min"),
        (47 * 3600 + 59 * 60 + 20, "47 h 59 min"),
        (51 * 3600, "2 d 03 h"),
    ],
)
def test_durations_are_rounded_to_what_a_person_reads(seconds, expected):
    assert duration(seconds) == expected


def test_a_plain_table_aligns_numbers_to_the_right_and_words_to_the_left():
    table = plain_table(
        ["layer", "address", "receptive field", "memory", "Dice"],
        [
            ["1", "normal.1", "5 x 5 x 5", "1.5 MB", "0.91"],
            ["10", "fc.2", "17 x 17 x 17", "980 kB", "-"],
        ],
    )
    assert table.splitlines() == [
        "layer  address   receptive field  memory  Dice",
        "----------------------------------------------",
        "    1  normal.1        5 x 5 x 5  1.5 MB  0.91",
        "   10  fc.2         17 x 17 x 17  980 kB     -",
    ]


def test_a_column_of_words_with_one_number_is_aligned_to_the_left():
    assert plain_table(["kernel"], [["3"], ["mirror"]]).splitlines()[2] == "3"


def test_a_table_is_wider_than_eighty_characters_only_for_a_word_that_is():
    path = "/data/" + "q" * 150
    table = plain_table(["case", "path", "voxels"], [["case_001", path, "1,234"]])
    assert table.splitlines()[2] == f"case_001  {path}   1,234"
    words = "many words " * 20
    table = plain_table(["case", "text", "voxels"], [["case_001", words, "1,234"]])
    assert 70 < max(len(line) for line in table.splitlines()) <= 80
    assert table.count("many words") + table.count("many\n") >= 15


@given(st.lists(st.lists(st.text("ab /.", max_size=60), min_size=3, max_size=3), max_size=4))
def test_a_table_keeps_every_word_whole(rows):
    table = plain_table(["case", "path", "voxels"], rows)
    words = [word for row in rows for cell in row for word in cell.split()]
    assert Counter(words) - Counter(table.split()) == Counter()


def test_a_table_without_rows_shows_its_headings():
    assert plain_table(["case", "Dice"], []).splitlines()[0] == "case  Dice"
