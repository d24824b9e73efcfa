"""A budget is kept or refused: what is measured, what it may cost, and what is cut where the machine is slow."""

import json
import time
from dataclasses import replace

import pytest
import torch
from small_sets import changed, tiny_plan, write_instances, write_volumes

from biosegkit import configure, probing
from biosegkit.configure import make_plan
from biosegkit.errors import OptionError
from biosegkit.fingerprint import measure
from biosegkit.loop import make_network, make_optimizer
from biosegkit.plan.budget import SHORT, WIDTHS, Probe, next_width, steps_between_validations, with_workers
from biosegkit.plan.schema import Budget, Training
from biosegkit.plan.units import duration_text, parse_duration
from biosegkit.probing import CLOSING, preparing_seconds, probe, probed_widths, rehearse
from biosegkit.segmenter import method_of
from biosegkit.time_needed import reading_within, refuse_late
from biosegkit.train import fit

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_instances(tmp_path_factory.mktemp("probing") / "data", cases=4)


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that is set by hand."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def budget_of(error):
    """The budget that an error recommends."""
    return parse_duration(error.value.remedy.split("--budget ")[1].split(" ")[0])


@pytest.mark.parametrize(("elapsed", "budget"), [(58.0, "1m"), (200.0, "2m"), (4.0, "8s")])
@pytest.mark.usefixtures("clock")
def test_a_budget_that_start_and_report_use_up_is_refused_with_one_that_does(dataset, monkeypatch, elapsed, budget):
    """A machine on which reading takes half a second, whatever this one is busy with."""
    fingerprint = measure(dataset)
    monkeypatch.setattr(configure, "rehearse", lambda plan: CLOSING)
    monkeypatch.setattr(configure, "preparing_seconds", lambda *_: 0.5)
    monkeypatch.setattr(configure, "probed_widths", lambda plan, *_: (plan, [Probe(8, 0.1, 0.001, 1)]))
    with pytest.raises(OptionError, match=f"--budget {duration_text(parse_duration(budget))}") as error:
        make_plan(fingerprint, dataset, budget=budget, device="cpu", elapsed=elapsed)
    assert budget_of(error) > max(parse_duration(budget), elapsed + CLOSING)
    enough = make_plan(fingerprint, dataset, budget=budget_of(error), device="cpu", elapsed=elapsed)
    assert enough.training.steps >= 20


@pytest.mark.parametrize(("device", "until", "first", "steps"), [
    ("cpu", None, 0.1, 4), ("cpu", 2000.0, 60.0, 4), ("cpu", 999.0, 7.9, 2), ("cpu", 999.0, 8.1, 1),
    ("cuda", None, 0.1, 4), ("cuda", 999.0, 60.0, 3)])
@pytest.mark.usefixtures("clock")
def test_a_late_probe_is_short_but_not_of_a_step_that_may_have_been_slow_once(device, until, first, steps):
    """A first step loads and compiles; on a GPU, the second still does."""
    taken = []
    while probing._goes_on(taken, 3, torch.device(device), until):
        taken.append(0.1 if taken else first)
    assert len(taken) == steps


def test_steps_too_slow_for_the_budget_are_refused_with_a_budget_of_a_hundred(dataset, monkeypatch):
    """A machine of 5 s per step: 60 s hold fewer than twenty of them."""
    monkeypatch.setattr(configure, "probed_widths", lambda plan, *_: (plan, [Probe(8, 5.0, 0.001, 1)]))
    with pytest.raises(OptionError, match=r"a step of training 5\.0s") as error:
        make_plan(measure(dataset), dataset, budget="1m", device="cpu")
    assert 100 * 5 < budget_of(error) < 700


def test_a_survey_that_leaves_no_time_is_given_up(clock):
    """Ten cases of 8 s: 80 s to read them, 80 s to read them again."""
    watch = reading_within("1m", 995.0)
    for done in (1, 2):  # nothing is known from the first cases, which load and compile
        clock[0] += 8.0
        watch(done, 10)
    clock[0] += 8.0
    with pytest.raises(OptionError, match=r"reading 10 cases .* takes 2m45s") as error:
        watch(3, 10)
    assert budget_of(error) > 165
    patient = reading_within(budget_of(error), 995.0)
    clock[0] += 24.0
    assert patient(3, 10) is None
    assert reading_within(None, 995.0)(3, 10) is None


def test_a_program_that_takes_half_of_the_budget_to_start_says_so_before_reading(clock):
    with pytest.raises(OptionError, match="starting the program took 40s") as error:
        reading_within("1m", 960.0)
    assert budget_of(error) == 400


@pytest.mark.parametrize(("until", "steps"), [(None, 4), (0.0, 2)])
def test_measuring_ends_with_its_time(monkeypatch, until, steps):
    taken = []
    real = probing.forward_loss
    monkeypatch.setattr(probing, "forward_loss", lambda *a: taken.append(1) or real(*a))
    found = probe(tiny_plan(), CPU, until=until)
    assert len(taken) == steps
    assert found.step_seconds > 0


def test_a_first_step_that_loads_its_libraries_is_not_the_speed_of_a_step(monkeypatch):
    """Late as it is, half a second of the first step is not reported: the second one takes its own."""
    real, taken = probing.forward_loss, []

    def slow_once(*args):
        if not taken:
            time.sleep(0.5)
        taken.append(1)
        return real(*args)

    monkeypatch.setattr(probing, "forward_loss", slow_once)
    assert probe(tiny_plan(), CPU, until=0.0).step_seconds < 0.5


def test_a_short_budget_is_not_spent_on_wide_networks(clock, monkeypatch):
    """Each network costs 7 s to measure: of a minute one is measured, the narrowest; of ten minutes as many as help."""
    seen = []

    def measured(plan, device, until):
        width = plan.configuration.architecture.features[0]
        seen.append(width)
        clock[0] += 7.0
        return Probe(width, 1e-3 * width, 1e-4, 1)

    monkeypatch.setattr(probing, "probe", measured)
    monkeypatch.setattr(probing, "_convolving", lambda dtype: 1.0)
    probed_widths(tiny_plan(), CPU, 60.0, 1 << 40)
    assert seen == [WIDTHS[0]]
    seen.clear()
    probed_widths(tiny_plan(), CPU, 600.0, 1 << 40)
    assert seen == [16, WIDTHS[-1]]
    assert next_width([], SHORT, 1 << 40) == 16


@pytest.mark.parametrize("plan", [tiny_plan(), tiny_plan(3, task="semantic"), tiny_plan(3, anisotropic=True)],
                         ids=["2d", "3d", "anisotropic"])
def test_a_rehearsal_runs_all_that_comes_after_training(plan, monkeypatch):
    done = []
    for name in ("make_optimizer", "decode", "score_pair", "loss_chart"):
        real = getattr(probing, name)
        monkeypatch.setattr(probing, name, lambda *a, real=real, name=name, **k: done.append(name) or real(*a, **k))
    assert rehearse(plan) >= CLOSING
    assert done == ["make_optimizer", "decode", "score_pair", "loss_chart", "loss_chart"]


def test_preparing_is_measured_on_one_case_for_all(dataset, clock, monkeypatch):
    """A case of 2 s; four alike take eight, with a margin for writing. Without files nothing is measured."""
    fingerprint, real = measure(dataset), probing.make_sample
    monkeypatch.setattr(probing, "make_sample", lambda *a: clock.__setitem__(0, clock[0] + 2.0) or real(*a))
    assert preparing_seconds(tiny_plan(), dataset, fingerprint) == pytest.approx(1.3 * 4 * 2.0)
    gone = replace(dataset, cases=tuple(replace(c, images=(c.images[0].with_name("no.tif"),)) for c in dataset))
    assert preparing_seconds(tiny_plan(), gone, fingerprint) == 0.0


def test_live_scores_are_fewer_in_a_short_training():
    cost = Probe(8, 0.1, 0.02, 0)
    assert steps_between_validations(4000, cost, 8) == 200  # twenty in 400 s cost 3 s
    assert steps_between_validations(100, cost, 8) == 50  # 4 % of 10 s hold two of 0.16 s
    assert steps_between_validations(5, cost, 8) == 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two folds, validated without a clock."""
    folder = tmp_path_factory.mktemp("late")
    dataset = write_volumes(folder / "data", cases=6)
    plan = changed(tiny_plan(3, task="semantic", unit="mm", patch=(12, 12, 12)), steps=2, folds=2,
                   validation_fraction=0.5)
    fit(plan, dataset, folder / "run", device="cpu")
    return folder, plan, dataset


def test_a_validation_without_time_scores_one_case_of_every_fold_and_says_so(trained):
    """Each training is finished; the budget was over before the validation began."""
    folder, plan, dataset = trained
    every = json.loads((folder / "run/scores.json").read_text())
    assert len(every["cases"]) == 6
    assert every["notes"][0] == "6 held-back cases of fold 0, 1"
    hurried = plan.model_copy(update={"budget": plan.budget.model_copy(update={"seconds": 0.01})})
    fit(hurried, dataset, folder / "hurried", device="cpu")
    some = json.loads((folder / "hurried/scores.json").read_text())
    assert len(some["cases"]) == 2
    folds = json.loads((folder / "hurried/run.json").read_text())["folds"]
    assert [folds[k]["validation"] for k in ("0", "1")] == [3, 3]
    assert "2 of 6 held-back cases of fold 0, 1; the budget left no time for more" in some["notes"]


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (5, 4), (64, 12)])
def test_a_gpu_gets_its_batches_from_processes_and_a_cpu_makes_them_itself(dataset, monkeypatch, cores, workers):
    monkeypatch.setattr(configure, "usable_cores", lambda: cores)
    monkeypatch.setattr(configure, "describe", lambda device: device.type)  # no such device here to be named
    fingerprint = measure(dataset)
    plan = make_plan(fingerprint, dataset, steps=5, device="cpu")
    assert plan.training.workers == 0
    limits = configure._Limits(None, None, 2**32, 5, 0.0, 1.0)
    settled = configure._settled(plan, [Probe(8, 0.1, 0.01, 0)], torch.device("cuda"), limits, fingerprint)
    assert settled.training.workers == workers
    assert [d.value for d in settled.decisions if d.name == "workers"] == [str(workers)]


@pytest.mark.parametrize(("budget", "workers", "makers"), [(119, 6, "threads"), (120, 12, "processes"),
                                                           (None, 12, "processes")])
def test_a_short_budget_on_a_gpu_plans_with_threads(budget, workers, makers):
    """A batch takes 1.2 s of one core: 0.2 s with six makers, 0.1 s with twelve."""
    training, cost, told = with_workers(Training(steps=5), 64, Probe(32, 0.01, 0.01, 0), 1.2, budget)
    assert (training.workers, cost.step_seconds) == (workers, pytest.approx(1.2 / workers))
    assert told.reason.startswith(makers)


@pytest.mark.parametrize(("step_seconds", "said"), [
    (0.1, "the widest of the probed [8] that leaves about 550 steps within 4.0GB"),
    (0.2, "the narrowest of the probed [8], as none leaves 550 steps within 4.0GB")])
def test_the_reason_of_the_width_says_whether_the_steps_fit(step_seconds, said):
    """A minute of steps is half of four minutes' 1100 (the root of a quarter), 0.109 s each."""
    limits = configure._Limits(60 / 0.85, 60 / 0.85, 4 << 30, None, 0.0, 0.0)
    volume = tiny_plan().configuration.model_copy(update={"ndim": 3})
    probe = Probe(8, step_seconds, 0.01, 1 << 30)
    assert configure._width_decision(probe, [probe], limits, volume).reason == said


def test_a_machine_that_became_too_slow_is_given_up_before_the_first_step(dataset, tmp_path):
    """45 of 60 s have passed, 7 are kept for the end: 7.4 s are left for twenty steps of 0.5 s."""
    plan = tiny_plan()
    late = plan.model_copy(update={"budget": Budget(seconds=60.0, step_seconds=0.5, validation_seconds=2.0)})
    with pytest.raises(OptionError, match=r"45s have passed before the first step") as error:
        fit(late, dataset, tmp_path / "run", device="cpu", started=time.monotonic() - 45)
    assert "--overwrite" in error.value.remedy
    assert budget_of(error) > 45 + 2 + 5 + 100 * 0.5
    assert not list((tmp_path / "run").glob("fold-*/weights.safetensors"))
    refuse_late(late, time.monotonic() - 40, time.monotonic() + 12)
    refuse_late(plan, time.monotonic() - 40, None)


def test_the_end_of_a_command_is_paid_once_and_not_by_every_fold(tmp_path, monkeypatch):
    """Two folds of 50 s each, 10 s for report and bundle: 5 s of each fold, and 2 s to begin its validation."""
    dataset = write_volumes(tmp_path / "data", cases=4)
    monkeypatch.setattr(configure, "probed_widths", lambda plan, *_: (plan, [Probe(8, 0.1, 1e-6, 1)]))
    monkeypatch.setattr(configure, "rehearse", lambda plan: 10.0)
    monkeypatch.setattr(configure, "preparing_seconds", lambda *_: 0.0)
    began = time.monotonic()
    plan = make_plan(measure(dataset), dataset, budget="100s", folds=2, device="cpu")
    spent = time.monotonic() - began
    assert plan.budget.closing_seconds == pytest.approx(10.0)
    assert plan.budget.validation_seconds == pytest.approx(2.0, abs=0.5)
    least, most = ((49.5 - 5 - v - s / 2) / 0.105 for v, s in ((2.5, spent), (2.0, 0.0)))
    assert least - 1 <= plan.training.steps <= most


@pytest.mark.parametrize(("convolution", "step", "found"), [
    (0.5, 0.6, "bfloat16"), (0.5, 0.95, "float32"), (3.0, 0.1, "float32"),
], ids=["faster", "steps are not faster", "emulated"])
def test_the_faster_precision_is_taken_and_said(monkeypatch, convolution, step, found):
    """Each network is measured once in it, the first in both; where one convolution is slow nothing is."""
    measured = []

    def cost(plan, device, until):
        half, width = plan.training.precision == "bfloat16", plan.configuration.architecture.features[0]
        measured.append((width, plan.training.precision))
        return Probe(width, 1e-3 * width * (step if half else 1.0), 1e-4, 1)

    monkeypatch.setattr(probing, "_convolving", lambda dtype: convolution if dtype == torch.bfloat16 else 1.0)
    monkeypatch.setattr(probing, "probe", cost)
    plan, probes = probed_widths(tiny_plan(), CPU, 600.0, 1 << 40)
    assert plan.training.precision == found
    assert (plan.decisions[-1].name, plan.decisions[-1].value) == ("precision", found)
    both = [(16, "float32")] if convolution > 1 else [(16, "float32"), (16, "bfloat16")]
    assert measured == [*both, (WIDTHS[-1], found)]
    assert [p.step_seconds for p in probes] == [1e-3 * w * (step if found == "bfloat16" else 1.0) for w in (16, 32)]


def test_a_width_that_is_given_is_measured_in_both_precisions(monkeypatch):
    plan = tiny_plan()
    own, seen = plan.configuration.architecture.features[0], []
    monkeypatch.setattr(probing, "_convolving", lambda dtype: 0.5 if dtype == torch.bfloat16 else 1.0)

    def cost(plan, device, until):
        seen.append(plan.configuration.architecture.features[0])
        return Probe(own, 0.5 if plan.training.precision == "bfloat16" else 1.0, 0.1, 1)

    monkeypatch.setattr(probing, "probe", cost)
    settled, probes = probed_widths(plan, CPU, 600.0, 1 << 40, True)
    assert seen == [own, own]
    assert (settled.training.precision, probes[0].step_seconds) == ("bfloat16", 0.5)


@pytest.mark.parametrize(("preset", "seconds"), [("nnunet", 60.0), ("default", None)], ids=["nnU-Net", "no clock"])
def test_without_a_clock_and_in_presets_of_nnunet_training_is_in_float32(monkeypatch, preset, seconds):
    monkeypatch.setattr(probing, "_convolving", lambda dtype: 0.5 if dtype == torch.bfloat16 else 1.0)
    plan = tiny_plan().model_copy(update={"preset": preset})
    found, probes = probed_widths(plan, CPU, seconds, 1 << 40)
    assert found == plan
    assert len(probes) == 1


def test_steps_in_bfloat16_learn_as_those_in_float32():
    """The loss falls alike; weights stay float32."""
    losses = {}
    for precision in ("float32", "bfloat16"):
        plan = changed(tiny_plan(), precision=precision)
        method, network = method_of(plan), make_network(plan, method_of(plan), CPU)
        optimizer, batch, curve = make_optimizer(network, plan.training), probing._noise(plan, method), []
        for _ in range(12):
            loss = torch.stack(list(probing.forward_loss(network, method, batch, plan, CPU).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(float(loss.detach()))
        losses[precision] = curve
        assert all(p.dtype == torch.float32 for p in network.parameters())
    whole, half = losses.values()
    assert whole[-1] < 0.9 * whole[0]
    assert half != whole  # it was in bfloat16
    assert half == pytest.approx(whole, rel=0.03)
