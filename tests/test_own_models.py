"""Models that grokinterp did not build: their parts by name, their tokens, and what a recorder stores of them."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import grokinterp as gi
from grokinterp.analysis.timeline import analyze
from grokinterp.errors import ConfigError, MissingNeedError, RunError
from grokinterp.measures import (
    Activity,
    Snapshot,
    embedding_power,
    gini_embedding,
    gini_neuron_logit,
    key_frequencies,
    neuron_frequencies,
    restricted_loss,
    weight_norm,
)
from grokinterp.runs.run import Run
from grokinterp.runs.verification import verify
from grokinterp.tasks import Task
from grokinterp.training import recorder as recorder_module
from grokinterp.training.recorder import Recorder

P, D, M = 11, 6, 10


class Net(nn.Module):
    """Reads a and b, and no `=`."""

    def __init__(self, p: int = P):
        super().__init__()
        self.table = nn.Embedding(p, D)
        self.norm = nn.BatchNorm1d(2 * D)
        self.hidden = nn.Linear(2 * D, M)
        self.out = nn.Linear(M, p)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(F.relu(self.hidden(self.norm(self.table(tokens).flatten(1)))))


@pytest.fixture
def task() -> Task:
    return Task.modular_addition(P, train_fraction=0.5, equals_token=False)


@pytest.fixture
def model() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def neurons_of(model: Net, task: Task) -> Tensor:
    with torch.no_grad():
        model.eval()
        neurons = F.relu(model.hidden(model.norm(model.table(task.tokens).flatten(1))))
        model.train()
    return neurons


class TestParts:
    def test_measures_of_weights_and_neurons(self, model, task):
        snapshot = Snapshot.from_model(task, model, embedding="table.weight", unembedding="out")
        named = {"embed.W_E": model.table.weight.detach()}
        expected = Snapshot.from_logits(task, snapshot.logits, weights=named)
        assert torch.equal(embedding_power(snapshot), embedding_power(expected))
        assert key_frequencies(snapshot, "embedding_norm") == key_frequencies(expected, "embedding_norm")
        activity = Activity(neurons_of(model, task), model.out.weight.detach().T)
        with_neurons = Snapshot(task, snapshot.logits, activity=lambda: activity)
        torch.testing.assert_close(snapshot.neurons, with_neurons.neurons)
        assert gini_neuron_logit(snapshot) == pytest.approx(gini_neuron_logit(with_neurons))
        assert neuron_frequencies(snapshot).clusters(0.1) == neuron_frequencies(with_neurons).clusters(0.1)
        norm = math.sqrt(sum(w.detach().double().square().sum() for w in model.parameters()))
        assert weight_norm(snapshot) == pytest.approx(norm)

    def test_neurons_are_what_a_module_returns(self, task):
        model = nn.Sequential(nn.Embedding(P, D), nn.Flatten(), nn.Linear(2 * D, M), nn.ReLU(), nn.Linear(M, P))
        by_input = Snapshot.from_model(task, model, unembedding="4.weight")
        by_output = Snapshot.from_model(task, model, neurons="3")
        assert torch.equal(by_input.neurons, by_output.neurons)
        assert by_output.neuron_logit_map is None
        with pytest.raises(MissingNeedError, match="name it with unembedding="):
            gini_neuron_logit(by_output)

    def test_a_path_of_two_matrices(self, task):
        parts = (nn.Embedding(P, D), nn.Flatten(), nn.Linear(2 * D, M), nn.ReLU(), nn.Linear(M, 4), nn.Linear(4, P))
        model = nn.Sequential(*parts)
        snapshot = Snapshot.from_model(task, model, unembedding=["4", "5"])
        torch.testing.assert_close(snapshot.neuron_logit_map, (model[5].weight @ model[4].weight).T.detach())
        with pytest.raises(ConfigError, match=r"unembedding: it maps to 4 numbers, but there are 11 classes"):
            Snapshot.from_model(task, model, unembedding="4")
        with pytest.raises(ConfigError, match=r"'5' maps from 4 numbers, but there are 10 neurons: name all matrices"):
            Snapshot.from_model(task, model, neurons="3", unembedding="5")

    def test_one_hot_pairs(self, task):
        model = nn.Sequential(nn.Linear(2 * P, M), nn.ReLU(), nn.Linear(M, P))
        one_hot = F.one_hot(task.tokens, P).flatten(1).float()
        snapshot = Snapshot.from_model(task, lambda tokens: model(one_hot), weights={"first": model[0].weight.T})
        pair = Snapshot.from_model(
            task, lambda tokens: model(one_hot), weights={"first": model[0].weight.T}, embedding="first"
        )
        expected = Snapshot.from_logits(task, snapshot.logits, weights={"layers.0.W": model[0].weight.detach().T})
        assert gini_embedding(pair) == gini_embedding(expected)
        with pytest.raises(MissingNeedError, match="take its name as embedding="):
            gini_embedding(snapshot)

    def test_what_is_missing_names_the_argument(self, task):
        snapshot = Snapshot.from_logits(task, torch.zeros(P * P, P))
        with pytest.raises(MissingNeedError, match=r"made without neurons: .* take unembedding= and neurons="):
            neuron_frequencies(snapshot)
        with pytest.raises(MissingNeedError, match=r"made without weights: .* take weights="):
            gini_embedding(snapshot)

    @pytest.mark.parametrize(
        ("parts", "message"),
        [
            ({"embedding": "tabel"}, r"embedding: the model has no part named 'tabel': did you mean 'table"),
            ({"unembedding": "nowhere"}, r"unembedding: the model has no part named 'nowhere'"),
            ({"neurons": "hiden"}, r"neurons: the model has no part named 'hiden': did you mean 'hidden'"),
            ({"embedding": "out"}, r"embedding: 'out' must have at least 11 rows, .* but has shape \[10, 11\]"),
            ({"embedding": ("table", "table", "table")}, r"one table or of two, one for each operand, not 3"),
        ],
    )
    def test_wrong_names(self, parts, message, model, task):
        with pytest.raises(ConfigError, match=message):
            Snapshot.from_model(task, model, **parts)

    def test_a_state_dict_is_no_model(self, model, task, unchecked):
        with pytest.raises(ConfigError, match=r"give the module, after module\.load_state_dict"):
            Snapshot.from_model(task, model.state_dict())

    def test_the_mode_and_the_hooks_of_the_model_are_left_alone(self, model, task):
        model.norm.eval()
        before = Snapshot.from_model(task, model, unembedding="out").logits
        assert model.training
        assert not model.norm.training
        assert not model.out._forward_hooks
        assert torch.equal(before, Snapshot.from_model(task, model).logits)


class TestTokens:
    """A model of one's own meets `=` here first."""

    def test_a_model_that_does_not_read_the_equals_token(self, model, tmp_path):
        task = Task.modular_addition(P, train_fraction=0.5)
        message = r"shape \[121, 3\], with values 0 .. 11 .* the token `=` \(11\); .* with equals_token=False"
        with pytest.raises(ConfigError, match=message):
            Snapshot.from_model(task, model)
        with Recorder(tmp_path / "run", task) as recorder, pytest.raises(ConfigError, match=message):
            recorder.record(0, model)

    def test_a_model_that_reads_it(self, task):
        model = nn.Sequential(nn.Embedding(P + 1, D), nn.Flatten(), nn.Linear(3 * D, P))
        with pytest.raises(ConfigError, match=r"mat1 and mat2 .* `=` \(11\), make the task with equals_token=True"):
            Snapshot.from_model(task, model)

    def test_a_recorded_run_has_the_tokens_that_the_model_read(self, tmp_path):
        for equals_token in (True, False):
            task = Task.modular_addition(P, train_fraction=0.5, equals_token=equals_token)
            with Recorder(tmp_path / str(equals_token), task) as recorder:
                recorder.record(0, torch.zeros(P * P, P))
            assert torch.equal(recorder.run.task.tokens, task.tokens)


class TestRecordedParts:
    def test_they_come_back(self, model, task, tmp_path):
        names = {"embedding": "table", "unembedding": "out"}
        with Recorder(tmp_path / "run", task, **names) as recorder:
            recorder.record(5, model)
        run, expected = Run.open(tmp_path / "run"), Snapshot.from_model(task, model, **names)
        snapshot = run.snapshot("last")
        assert verify(run.path).problems == ()
        assert gini_embedding(snapshot) == gini_embedding(expected)
        torch.testing.assert_close(snapshot.neurons, expected.neurons)
        torch.testing.assert_close(snapshot.neuron_logit_map, expected.neuron_logit_map)
        timeline = analyze(run).timeline
        assert timeline.loc[5, ["gini_embedding", "gini_neuron_logit", "weight_norm"]].notna().all()
        assert set(run.weights(5)) == {name for name, _ in model.named_parameters()}

    @pytest.mark.parametrize(
        ("name", "shape"),
        [("logits", (3, P)), ("neurons", (3, M)), ("embedding_0", (3, D)), ("neuron_logit_map", (P,))],
    )
    def test_damage_is_noticed(self, name, shape, model, task, tmp_path):
        from grokinterp.runs.recorded import describe_bad_outputs, outputs

        tensors = outputs(Snapshot.from_model(task, model, embedding="table", unembedding="out"))
        tensors = {key: tensor.float() for key, tensor in tensors.items()}
        assert describe_bad_outputs(tensors, P * P, P, P) == ""
        assert name in describe_bad_outputs({**tensors, name: torch.zeros(shape)}, P * P, P, P)
        assert "unexpected more" in describe_bad_outputs({**tensors, "more": torch.zeros(1)}, P * P, P, P)


class TestPrecision:
    def test_half_precision(self, model, task, tmp_path):
        sizes, rows = {}, {}
        for precision in ("float32", "float16"):
            with Recorder(tmp_path / precision, task, logits=precision) as recorder:
                rows[precision] = recorder.record(0, model)
            sizes[precision] = (tmp_path / precision / "logits" / "step_000000.safetensors").stat().st_size
            assert recorder.bytes_per_step == (4 if precision == "float32" else 2) * P**3
            assert f"{recorder.bytes_per_step / 1e6:.3g} MB of logits a step" in repr(recorder)
        assert sizes["float16"] < 0.6 * sizes["float32"]
        assert rows["float16"] == rows["float32"]
        exact, rounded = (Run.open(tmp_path / name).snapshot(0).logits for name in ("float32", "float16"))
        torch.testing.assert_close(rounded, exact, rtol=1e-3, atol=1e-3)
        assert not torch.equal(rounded, exact)
        assert verify(tmp_path / "float16").problems == ()

    def test_numbers_that_half_precision_does_not_have(self, task, tmp_path):
        with (
            Recorder(tmp_path / "run", task, logits="float16") as recorder,
            pytest.raises(ConfigError, match=r"the logits reach 1e\+05, but float16 ends at 65504"),
        ):
            recorder.record(0, torch.full((P * P, P), 1e5))
        assert recorder.run.steps == []

    def test_much_space_is_said_once(self, task, tmp_path, monkeypatch, caplog):
        monkeypatch.setattr(recorder_module, "_MUCH", 8 * P**3)
        with Recorder(tmp_path / "run", task) as recorder:
            for step in range(4):
                recorder.record(step, torch.zeros(P * P, P))
        (record,) = caplog.records
        assert 'logits="float16" takes half, and logits=None stores only weights' in record.getMessage()

    @pytest.mark.parametrize("options", [{"logits": "float64"}, {"logits": None, "keep_weights": False}])
    def test_refused(self, options, task, tmp_path, unchecked):
        with pytest.raises(ConfigError, match=r"^logits"):
            Recorder(tmp_path / "run", task, **options)
        assert not (tmp_path / "run").exists()


class TestWithoutLogits:
    @pytest.fixture
    def recorder(self, model, task, tmp_path) -> Recorder:
        with Recorder(tmp_path / "run", task, logits=None, embedding="table", unembedding="out") as recorder:
            recorder.record(0, model)
            model(task.tokens).sum().backward()  # also moves the statistics of the BatchNorm
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            recorder.record(10, model)
        return recorder

    def test_the_model_gives_them_again(self, recorder, model, task):
        expected = Snapshot.from_model(task, model, embedding="table", unembedding="out")
        assert not (recorder.run.path / "logits").exists()
        assert verify(recorder.run.path).problems == ()
        again = Run.open(recorder.run.path).with_model(Net(), embedding="table", unembedding="out")
        for run in (recorder.run, again):
            snapshot = run.snapshot(10)
            assert torch.equal(snapshot.logits, expected.logits)
            assert torch.equal(snapshot.neurons, expected.neurons)
            assert weight_norm(snapshot) == pytest.approx(weight_norm(expected))
            assert gini_embedding(snapshot) == gini_embedding(expected)
            gradient = torch.func.grad(lambda w, s=snapshot: s.forward({**s.weights, **w}).sum())
            assert gradient({"table.weight": snapshot.weights["table.weight"]})["table.weight"].abs().sum() > 0
        assert torch.equal(again.model("last").table.weight, model.table.weight)

    def test_it_is_analyzed(self, recorder):
        analysis = analyze(recorder.run, workers=2, frequencies=[3])
        assert analysis.timeline.loc[10, "restricted_loss"] == restricted_loss(recorder.run.snapshot(10), 3)
        assert analysis.timeline.loc[10, "test_loss"] == pytest.approx(recorder.run.metrics.loc[10, "test_loss"])

    def test_without_the_model_they_are_missing(self, recorder):
        with pytest.raises(RunError, match=r"weights of step 10, but no logits: in Python, run.with_model\(model\)"):
            Run.open(recorder.run.path).snapshot(10)

    def test_another_model_does_not_fit(self, recorder):
        run = Run.open(recorder.run.path)
        for other in (nn.Linear(2, 2), Net(P + 1)):
            with pytest.raises(ConfigError, match=r"^the model does not fit the recorded weights: "):
                run.with_model(other).snapshot(0)

    def test_only_modules_have_weights(self, task, tmp_path):
        with Recorder(tmp_path / "other", task, logits=None) as recorder:
            for model in (torch.zeros(P * P, P), lambda tokens: torch.zeros(P * P, P)):
                with pytest.raises(ConfigError, match=r"logits=None needs a torch.nn.Module"):
                    recorder.record(0, model)

    def test_a_trained_run_has_its_model(self):
        with pytest.raises(ConfigError, match=r"was trained, not recorded: run.model\(step\)"):
            Run.open("checkpoints/run42").with_model(nn.Linear(2, 2))


class TestResuming:
    def record(self, path, task, steps, **options) -> Run:
        with Recorder(path, task, **options) as recorder:
            for step in steps:
                recorder.record(step, torch.full((P * P, P), float(step)))
        return recorder.run

    def test_it_continues(self, task, tmp_path):
        whole = self.record(tmp_path / "whole", task, [0, 10, 20, 30])
        self.record(tmp_path / "run", task, [0, 10], resume=True)  # nothing there yet
        run = self.record(tmp_path / "run", task, [20, 30], resume=True)
        assert run.metrics.equals(whole.metrics)
        assert run.steps == whole.steps
        assert [run.checksum(step) for step in run.steps] == [whole.checksum(step) for step in whole.steps]
        assert verify(run.path).problems == ()
        assert run.environment["resumed"][0]["from_step"] == 10
        assert run.recorded_checksums() == whole.recorded_checksums()

    def test_steps_that_are_repeated_replace_what_was_there(self, task, tmp_path, caplog):
        self.record(tmp_path / "run", task, [0, 10, 20, 30])
        run = self.record(tmp_path / "run", task, [20, 40], resume=True)
        assert run.steps == [0, 10, 20, 40]
        assert run.metrics.index.tolist() == [0, 10, 20, 40]
        assert verify(run.path).problems == ()
        assert "the steps from 20 to 30 are recorded again" in caplog.text

    def test_after_a_crash(self, task, tmp_path):
        recorder = Recorder(tmp_path / "run", task)
        recorder.record(0, torch.zeros(P * P, P))
        recorder.record(10, torch.zeros(P * P, P))
        recorder._unclosed.detach()
        recorder._lock.close()
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 20, "train_l')  # and its logits were written before
        (tmp_path / "run" / "logits" / "step_000020.safetensors").write_text("half")
        again = Recorder(tmp_path / "run", task, resume=True)
        assert again.last_step == 10
        again.record(20, torch.zeros(P * P, P))
        again.close()
        assert again.run.steps == [0, 10, 20]
        assert verify(again.run.path).problems == ()

    def test_a_cell_that_is_run_twice(self, task, tmp_path):
        """The errors say what to write; with `restart`, the cell runs as often as one likes."""
        self.record(tmp_path / "run", task, [0, 10])
        with pytest.raises(RunError, match=r"in Python, resume=True\), start again .*restart=True"):
            self.record(tmp_path / "run", task, [0, 10])
        with pytest.raises(ConfigError, match=r"step 0 would replace all steps of .* restart=True\) records it again"):
            self.record(tmp_path / "run", task, [0, 10], resume=True)
        run = self.record(tmp_path / "run", task, [0, 5], restart=True)
        assert run.steps == [0, 5]
        assert Run.open(tmp_path / "run.replaced").steps == [0, 10]

    def test_other_runs_are_refused(self, task, tmp_path):
        self.record(tmp_path / "run", task, [0])
        for other in (
            Task.modular_addition(P, train_fraction=0.6, equals_token=False),
            Task.modular_addition(P, train_indices=[1, 2, 3], equals_token=False),
            Task.modular_addition(P, equals_token=False),
        ):
            with pytest.raises(ConfigError, match="was recorded on another task or split"):
                Recorder(tmp_path / "run", other, resume=True)
        with pytest.raises(ConfigError, match=r"run42 was trained, not recorded: gi.train\(..., resume=True\)"):
            Recorder("checkpoints/run42", task, resume=True)
        with pytest.raises(ConfigError, match="resume and restart exclude each other"):
            Recorder(tmp_path / "run", task, resume=True, restart=True)
        assert Run.open(tmp_path / "run").status["status"] == "finished"


def test_the_last_checkpoint():
    run = gi.Run.open("checkpoints/run42")
    last = run.steps[-1]
    assert torch.equal(run.weights("last")["embed.W_E"], run.weights(last)["embed.W_E"])
    assert torch.equal(run.model("last").W_E, run.model(last).W_E)
    assert run.snapshot("last").step == last


@pytest.mark.parametrize("step", ["first", 1.5, None])
def test_steps_that_are_neither_a_number_nor_the_last(step, unchecked):
    with pytest.raises(ConfigError, match=r'a step \(if not "last"\) must be an integer'):
        gi.Run.open("checkpoints/run42").snapshot(step)


def test_the_last_checkpoint_of_a_run_without_any(task, tmp_path):
    with (
        Recorder(tmp_path / "run", task) as recorder,
        pytest.raises(RunError, match="run has no checkpoint yet"),
    ):
        recorder.run.snapshot("last")
