from types import SimpleNamespace

from common.calibration import TEMPERATURES, Calibration, read_calibration, save_calibration, tune_calibration

import numpy as np
import pytest
from scipy.special import expit, log_softmax
from sklearn.metrics import f1_score
from transformers import AutoConfig, BertConfig

GRID = np.exp(np.linspace(*np.log(TEMPERATURES), 4001))


def draw_rows(seed: int, true_temperature: float, rows: int = 300, classes: int = 4):
    """Logits [rows, classes] and labels that are right as often as their softmax at `true_temperature` says."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 2 * true_temperature
    probabilities = np.exp(log_softmax(logits / true_temperature, axis=1))
    return logits, np.array([generator.choice(classes, p=row) for row in probabilities])


def draw_label_sets(seed: int, true_temperature: float = 1.0, rows: int = 300, classes: int = 4):
    """Logits [rows, classes] and 0/1 labels that are right as often as their sigmoid at `true_temperature` says."""
    generator = np.random.default_rng(seed)
    logits = (generator.normal(size=(rows, classes)) - 1) * 2 * true_temperature
    return logits, (generator.random((rows, classes)) < expit(logits / true_temperature)).astype(int)


def measure_cross_entropy(logits, labels, temperature: float) -> float:
    return -log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def measure_binary_cross_entropy(logits, labels, temperature: float) -> float:
    signs = 2 * labels - 1
    return np.logaddexp(0, -signs * logits / temperature).mean()


def find_best_f1(probabilities, gold) -> float:
    """The best F1 of any threshold, by trying them all."""
    return max(f1_score(gold, probabilities >= threshold) for threshold in [0.0, *probabilities])


# Probabilities


def test_probabilities_are_the_softmax_of_logits_over_the_temperature():
    logits = np.log(np.array([[0.75, 0.25], [0.5, 0.5]], dtype=np.float32))
    np.testing.assert_allclose(Calibration().compute_probabilities(logits), [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    # half the temperature squares the odds of 3, twice the temperature takes their root
    np.testing.assert_allclose(Calibration(0.5).compute_probabilities(logits)[0], [0.9, 0.1], rtol=1e-6)
    odds = 3**0.5
    np.testing.assert_allclose(Calibration(2.0).compute_probabilities(logits)[0, 0], odds / (1 + odds), rtol=1e-6)


def test_probabilities_of_a_multi_label_model_are_sigmoids():
    logits = np.array([[0.0, np.log(3), -np.log(9)]])
    calibration = Calibration(thresholds=[0.5] * 3)
    np.testing.assert_allclose(calibration.compute_probabilities(logits), [[0.5, 0.75, 0.1]])
    calibration.temperature = 2.0
    np.testing.assert_allclose(calibration.compute_probabilities(logits)[0, 2], 0.25)


# Temperature


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_temperature_has_the_least_cross_entropy(true_temperature, dtype):
    logits, labels = draw_rows(0, true_temperature)
    calibration = tune_calibration(logits.astype(dtype), labels, False)
    best = min(GRID, key=lambda temperature: measure_cross_entropy(logits, labels, temperature))
    assert calibration.temperature == pytest.approx(best, rel=5e-3)
    assert calibration.temperature == pytest.approx(true_temperature, rel=0.2)
    assert calibration.thresholds is None


@pytest.mark.parametrize("true_temperature", [0.5, 3.0])
def test_the_temperature_of_a_multi_label_model_has_the_least_binary_cross_entropy(true_temperature):
    logits, labels = draw_label_sets(1, true_temperature)
    best = min(GRID, key=lambda temperature: measure_binary_cross_entropy(logits, labels, temperature))
    assert tune_calibration(logits, labels, True).temperature == pytest.approx(best, rel=5e-3)


def test_the_temperature_stays_within_its_bounds():
    """Rows that are all right want 0, rows that are all wrong want infinity."""
    logits = np.array([[2.0, -1.0], [-3.0, 0.5]])
    assert TEMPERATURES[0] <= tune_calibration(logits, np.array([0, 1]), False).temperature < 0.5
    assert 15 < tune_calibration(logits, np.array([1, 0]), False).temperature <= TEMPERATURES[1]


# Thresholds


@pytest.mark.parametrize("seed", range(4))
def test_thresholds_have_the_best_f1_of_each_class(seed):
    logits, labels = draw_label_sets(seed, rows=60)
    calibration = tune_calibration(logits, labels, True)
    probabilities = calibration.compute_probabilities(logits)
    for threshold, column, gold in zip(calibration.thresholds, probabilities.T, labels.T, strict=True):
        assert f1_score(gold, column >= threshold) == pytest.approx(find_best_f1(column, gold))


def test_rounded_logits_that_many_rows_share_have_the_best_f1_too():
    logits, labels = draw_label_sets(5, rows=80)
    logits = logits.round()
    calibration = tune_calibration(logits, labels, True)
    for threshold, column, gold in zip(
        calibration.thresholds, calibration.compute_probabilities(logits).T, labels.T, strict=True
    ):
        assert f1_score(gold, column >= threshold) == pytest.approx(find_best_f1(column, gold))


def test_a_threshold_is_half_way_between_two_probabilities():
    logits = np.array([[2.0], [1.0], [-1.0], [-2.0]])
    calibration = tune_calibration(logits, np.array([[1], [0], [1], [0]]), True)
    # F1 is 2/3 from 2 on, 1/2 from 1 on, 4/5 from -1 on and 2/3 from -2 on.
    expected = (expit(-1 / calibration.temperature) + expit(-2 / calibration.temperature)) / 2
    assert calibration.thresholds == pytest.approx([expected])


def test_a_class_that_no_row_has_keeps_one_half_and_one_that_every_row_has_is_always_given():
    logits = np.array([[1.0, -2.0, 0.3], [-1.0, 3.0, 0.2], [2.0, -2.5, -0.4]])
    calibration = tune_calibration(logits, np.array([[0, 1, 1], [0, 1, 0], [0, 1, 0]]), True)
    assert calibration.thresholds[0] == 0.5
    assert (calibration.compute_probabilities(logits)[:, 1] >= calibration.thresholds[1]).all()
    assert all(0 <= threshold <= 1 for threshold in calibration.thresholds)


# Rows without label


def test_rows_without_label_do_not_count():
    logits, labels = draw_rows(2, 2.0)
    others = np.random.default_rng(0).normal(size=(50, 4)) * 30
    more = tune_calibration(np.concatenate([others, logits]), np.concatenate([np.full(50, -100), labels]), False)
    assert more == tune_calibration(logits, labels, False)
    logits, labels = draw_label_sets(2)
    more = tune_calibration(np.concatenate([others, logits]), np.concatenate([np.full((50, 4), -100), labels]), True)
    assert more == tune_calibration(logits, labels, True)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [(np.full(3, -100), Calibration(1.0, None)), (np.full((3, 2), -100), Calibration(1.0, [0.5, 0.5]))],
)
def test_without_any_label_nothing_is_tuned(labels, expected):
    assert tune_calibration(np.zeros((3, 2)), labels, labels.ndim == 2) == expected


# In the model's config


@pytest.mark.parametrize(
    ("calibration", "is_multi_label"), [(Calibration(1.7), False), (Calibration(0.8, [0.25, 0.6]), True)]
)
def test_a_calibration_travels_with_the_model(calibration, is_multi_label, tmp_path):
    config = BertConfig()
    save_calibration(calibration, config)
    config.save_pretrained(tmp_path)
    assert read_calibration(AutoConfig.from_pretrained(tmp_path), 2, is_multi_label) == calibration


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(),
        SimpleNamespace(calibration=None),
        SimpleNamespace(calibration={"temperature": 3.0, "thresholds": None}),  # of another kind of task
        SimpleNamespace(calibration={"temperature": 3.0, "thresholds": [0.2, 0.3]}),  # of other classes
    ],
)
def test_without_a_calibration_that_fits_nothing_is_changed(config):
    assert read_calibration(config, 3, True) == Calibration(1.0, [0.5, 0.5, 0.5])


def test_thresholds_of_a_multi_label_model_do_not_hold_for_one_class_a_row():
    config = SimpleNamespace(calibration={"temperature": 3.0, "thresholds": [0.2, 0.3]})
    assert read_calibration(config, 2, False) == Calibration()


def test_a_model_that_is_trained_on_begins_without_its_old_calibration():
    config = BertConfig(calibration={"temperature": 3.0, "thresholds": [0.2, 0.3]})
    assert read_calibration(config, 2, True).thresholds == [0.2, 0.3]
    assert read_calibration(config, 2, True, do_train=True) == Calibration(1.0, [0.5, 0.5])
