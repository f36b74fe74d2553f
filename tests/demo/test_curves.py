from vistok.demo.curves import training_curves


def test_a_resumed_run_replaces_the_steps_that_it_repeats(tmp_path):
    (tmp_path / "metrics.1.csv").write_text("step,loss\n1,10\n2,20\n")
    (tmp_path / "metrics.10.csv").write_text("step,loss\n3,33\n")
    (tmp_path / "metrics.2.csv").write_text("step,loss\n2,22\n3,30\n")
    (tmp_path / "metrics.csv").write_text("step,loss,other\n4,40,\n4,,1\n")
    curves = training_curves(tmp_path)
    assert curves == {"loss": [(1, 10), (2, 22), (3, 33), (4, 40)], "other": [(4, 1)]}


def test_a_run_without_a_log_has_no_curves(tmp_path):
    assert training_curves(tmp_path) == {}
