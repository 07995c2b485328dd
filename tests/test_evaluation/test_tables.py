from __future__ import annotations

import numpy as np

from mmseg_dhr.evaluation import MaskScores, per_class_table, scores_table


def test_tables_show_the_figures():
    scores = MaskScores(3)
    scores.update(np.array([[0, 1, 0, 0]]), np.array([[0, 1, 1, 0]]))
    computed = scores.compute()
    lines = scores_table(computed).split('\n')
    assert lines[2].split() == ['all', '1', '58.33', '75.00', *['0.00', '(of', '1)'],
                                *['0.00', '(of', '1)'], '-']
    assert lines[3].split() == ['multi-class', '0', '-', '-', '-', '-', '-']
    rows = [line.split() for line in per_class_table(computed, ['background', 'cat', 'dog'])
            .split('\n')[2:]]
    assert rows == [['background', '66.67', '-'], ['cat', '50.00', '-'], ['dog', '-', '-']]
