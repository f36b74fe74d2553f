from vistok.cli import main


def test_bench_measures_writes_and_prints_the_readmes_tables(tmp_path, capsys):
    out = str(tmp_path / "out")
    arguments = ["fsq", "--quick", "--repeats", "1", "--no-memory", "--device", "cpu", "--out", out]
    assert main(["bench", *arguments]) == 0
    assert "fsq, training step" in capsys.readouterr().out
    assert main(["bench", "--markdown", "--read", f"{out}/bench.csv"]) == 0
    printed = capsys.readouterr().out
    assert "| vistok |" in printed and "| not yet run |" in printed


def test_bench_lists_its_ops(capsys):
    assert main(["bench", "--list"]) == 0
    assert "nearest_code" in capsys.readouterr().out


def test_an_unknown_op_is_one_line(capsys):
    assert main(["bench", "nearest", "--device", "cpu"]) == 1
    assert "there is no benchmark 'nearest'" in capsys.readouterr().err
