"""Plots of training curves: ticks are round, lines are there, what is unknown is refused."""

import math

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from model.training import plots
from model.training.tracking import CURVE_NAME, CurvePoint, RunLog, read_curve
from service.cli.train import train_app


def points(num, start=1.0):
    return [CurvePoint(10 * i, start / (i + 1), 2.0, 0.5, 1e-3, 30.0, 0, 60.0 * i) for i in range(1, num + 1)]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "first-run"
    log = RunLog(folder, 0)
    for point in points(20):
        log.add(point)
    log.close()
    return folder


def test_a_curve_is_read_back_over_steps_and_minutes(run):
    over_steps = plots.read_run(run, "loss", "step")
    over_minutes = plots.read_run(run / CURVE_NAME, "loss", "minutes")
    assert over_steps.label == over_minutes.label == "first-run"
    assert over_steps.xs[:2] == (10, 20)
    assert over_minutes.xs[:2] == (1.0, 2.0)
    assert over_steps.ys == over_minutes.ys == tuple(1 / (i + 1) for i in range(1, 21))


def test_every_run_has_a_line_of_its_own_colour(run, tmp_path):
    plots.write_plot([run, run], tmp_path / "plots" / "loss.png")
    picture = np.asarray(Image.open(tmp_path / "plots" / "loss.png").convert("RGB")).astype(int)
    assert picture.shape == (plots.HEIGHT_PX, plots.WIDTH_PX, 3)
    second = np.array([int(plots.COLORS[1][i : i + 2], 16) for i in (1, 3, 5)])
    assert (np.abs(picture - second).sum(-1) < 60).sum() > 300


@pytest.mark.parametrize(("low", "high"), [(0.405, 1.73), (0, 5100), (-3.0, 2.0), (0.2, 0.2), (0.0, 0.0)])
def test_ticks_are_round_few_and_enclose_the_values(low, high):
    ticks = plots._ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= plots.NUM_TICKS + 2
    stride = ticks[1] - ticks[0]
    assert round(stride / 10 ** math.floor(math.log10(stride * 1.001)), 6) in (1, 2, 5)


def test_what_is_unknown_or_empty_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match="unknown value 'speed'; known: loss, minimised"):
        plots.read_run(run, "speed", "step")
    with pytest.raises(ValueError, match="unknown axis 'hours'; known: step, minutes"):
        plots.read_run(run, "loss", "hours")
    (tmp_path / CURVE_NAME).write_text("")
    with pytest.raises(ValueError, match="holds no report yet"):
        plots.read_run(tmp_path, "loss", "step")


def test_the_command_draws_runs_and_names_what_it_can_not_draw(run, tmp_path):
    target = tmp_path / "curves.png"
    done = CliRunner().invoke(train_app, ["plot", str(run), str(target), "--value", "grad_norm"])
    assert done.exit_code == 0, done.output
    assert target.is_file()
    failed = CliRunner().invoke(train_app, ["plot", str(tmp_path), str(target)])
    assert failed.exit_code == 2


def test_a_run_that_goes_on_takes_back_what_came_after_its_checkpoint(run):
    with (run / CURVE_NAME).open("a") as file:
        file.write('{"step": 210, "loss": 0.')  # killed while writing
    RunLog(run, 55).close()
    assert [point.step for point in read_curve(run / CURVE_NAME)] == [10, 20, 30, 40, 50]


def test_a_report_of_skipped_steps_only_is_no_number_and_is_not_drawn(tmp_path):
    log = RunLog(tmp_path, 0)
    log.add(CurvePoint(1, math.nan, math.nan, math.nan, 1e-3, 30.0, 1, 1.0))
    log.add(CurvePoint(2, 0.5, 0.5, 0.1, 1e-3, 30.0, 1, 2.0))
    log.close()
    assert "NaN" not in (tmp_path / CURVE_NAME).read_text()
    assert [math.isnan(point.loss) for point in read_curve(tmp_path / CURVE_NAME)] == [True, False]
    assert plots.read_run(tmp_path, "loss", "step").xs == (2,)
