"""Training and prediction as scikit-learn estimators: `fit(X, y)` and `predict(X)` of lists of sequences.

    from lyra import LyraRegressor

    model = LyraRegressor(ensemble=3).fit(sequences, values)
    model.predict(others)

Behind them is what `lyra train` and `lyra predict` do, with the same defaults.
"""

from .models import LyraClassifier, LyraRegressor, LyraTokenClassifier, LyraTokenRegressor

__all__ = ["LyraClassifier", "LyraRegressor", "LyraTokenClassifier", "LyraTokenRegressor"]
