from dataclasses import replace

from vistok.bench.report import NOT_YET_RUN, Row, duration, markdown, size, table

OURS = Row(
    "nearest_code", "vistok", "forward", 8, 16, 4, 1, "float32", "cpu: chip", 2,
    median_s=0.5, min_s=0.4, repeats=5, peak_bytes=3 << 20, correct="yes", near_ties=2,
)  # fmt: skip
PEER = replace(OURS, provider="peer", median_s=2.0, near_ties=0, note="in chunks of 2 latents")
WRONG = replace(OURS, provider="bad", median_s=None, peak_bytes=None, correct="3 of 8 indices are wrong")
ABSENT = replace(OURS, provider="gone", median_s=None, peak_bytes=None, correct="", note="not installed")


def test_a_table_tells_ratios_ties_faults_and_absences():
    lines = table([OURS, PEER, WRONG, ABSENT]).splitlines()
    assert lines[0] == "nearest_code, forward: N 8, K 16, dim 4"
    assert "500 ms" in lines[1] and "2 near ties" in lines[1]
    assert "4.0 x" in lines[2] and "3.0 MiB" in lines[2] and "in chunks of 2" in lines[2]
    assert lines[3].endswith("WRONG: 3 of 8 indices are wrong") and lines[4].endswith("not installed")


def test_a_device_without_results_is_marked_in_the_readmes_table():
    assert "4.0 x" in markdown([OURS, PEER], "cpu")
    assert markdown([OURS, PEER], "cuda").splitlines()[-1] == f"| {NOT_YET_RUN} | | | | | |"
    assert "bad" not in markdown([OURS, WRONG], "cpu")


def test_times_and_sizes_come_in_units_that_suit_them():
    assert [duration(x) for x in (2.345, 0.0123, 4.5e-5, None)] == ["2.35 s", "12.3 ms", "45 us", ""]
    assert size(5 << 30) == "5,120.0 MiB" and size(None) == ""
