"""A small linear model, enough to tell an honest training set from a leaking one."""

from __future__ import annotations

import numpy as np


def held_out_error(features: np.ndarray, label: np.ndarray, month: np.ndarray) -> tuple[float, float]:
    """Trains on the earlier three quarters of the months, tests on the rest.

    Returns the mean absolute error of the model and that of always answering the mean, in the unit of the label. Rows without a label are left out;
    missing features become the mean of the training rows, with an indicator column beside them.
    """
    known = ~np.isnan(label)
    last = month.max()
    cut = max(1, min(last - 1, round(last * 0.75))) if last > 1 else None
    order = np.arange(len(label))
    train = known & ((month <= cut) if cut else (order < len(label) * 0.75))
    test = known & ~train
    missing = np.isnan(features)
    means = np.nanmean(np.where(train[:, None], features, np.nan), axis=0)
    filled = np.where(missing, means, features)
    scale = filled[train].std(axis=0) + 1e-9
    inputs = np.column_stack([(filled - means) / scale, missing.astype(float), np.ones(len(label))])
    gram = inputs[train].T @ inputs[train] + 1e-3 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs[train].T @ label[train])
    error = np.abs(inputs[test] @ weights - label[test]).mean()
    base = np.abs(label[train].mean() - label[test]).mean()
    return float(error), float(base)
