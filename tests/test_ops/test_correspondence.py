"""Losses of STEGO and CAUSE against loops, hand-computed graphs and laws."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from mmseg_dhr.ops.correspondence import (
    concept_contrast,
    correspondence,
    correspondence_loss,
    feature_graph,
    modularity,
    nearest_concepts,
    nearest_neighbours,
    random_points,
    sample_points,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def cosine(a, b):
    return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


class TestPoints:
    def test_cell_centres_and_borders(self):
        maps = torch.arange(12.).view(1, 1, 3, 4).repeat(2, 1, 1, 1)
        maps[1] += 100
        # Centre of the cell in row 1, column 2; between two cells; outside the corner's centre.
        points = torch.tensor([[.25, 0.], [.5, 0.], [-1., -1.]]).repeat(2, 1, 1)
        assert sample_points(maps, points).tolist() == [[[6., 6.5, 0.]], [[106., 106.5, 100.]]]

    def test_random_points_fill_the_map(self):
        points = random_points(3, 11)
        assert points.shape == (3, 121, 2)
        assert -1 <= points.min() < -.95 and .95 < points.max() <= 1
        assert not torch.equal(points[0], points[1])


class TestCorrespondence:
    def test_equals_a_loop(self):
        a, b = torch.randn(2, 5, 3), torch.randn(2, 5, 4)
        expected = [[[cosine(a[k, :, i], b[k, :, j]) for j in range(4)] for i in range(3)]
                    for k in range(2)]
        torch.testing.assert_close(correspondence(a, b), torch.tensor(expected))

    @pytest.mark.parametrize(('centre', 'cap', 'keep'), [
        (False, None, False), (True, None, False), (True, .8, False), (True, None, True)])
    def test_loss_equals_a_loop(self, centre, cap, keep):
        f, s = torch.rand(2, 3, 4) * 2 - 1, torch.rand(2, 3, 4) * 2 - 1
        total = 0.
        for k in range(2):
            for i in range(3):
                mean = f[k, i].mean().item() if centre else 0
                mean -= f.mean().item() if keep else 0
                for j in range(4):
                    code = min(max(s[k, i, j].item(), 0), cap or 2)
                    total -= code * (f[k, i, j].item() - mean - .1)
        found = correspondence_loss(f, s, .1, centre, cap, keep)
        assert found.item() == pytest.approx(total / 24, rel=1e-5)

    def test_gradient_draws_like_together_and_flows_into_codes_alone(self):
        f = torch.tensor([[[.9, .1]]], requires_grad=True)
        s = torch.tensor([[[.5, .5]]], requires_grad=True)
        correspondence_loss(f, s, .2, centre=False).backward()
        assert f.grad is None and s.grad[0, 0, 0] < 0 < s.grad[0, 0, 1]

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match=r'\(1, 2, 3\) and \(1, 3, 2\)'):
            correspondence_loss(torch.zeros(1, 2, 3), torch.zeros(1, 3, 2), 0.)

    def test_bfloat16(self):
        a = torch.randn(1, 8, 6)
        found = correspondence(a.bfloat16(), a.bfloat16())
        assert found.dtype is torch.bfloat16
        torch.testing.assert_close(found.float(), correspondence(a, a), atol=.02, rtol=0)


class TestNeighbours:
    @pytest.mark.parametrize('block', [1, 3, 7, 100])
    def test_equals_a_loop_for_any_block(self, block):
        features = torch.randn(7, 4)
        found = nearest_neighbours(features, 3, block)
        for i in range(7):
            others = sorted((j for j in range(7) if j != i),
                            key=lambda j: -cosine(features[i], features[j]))
            assert found[i].tolist() == others[:3]

    def test_duplicates_are_neighbours_but_never_oneself(self):
        table = nearest_neighbours(torch.ones(4, 3), 3)
        assert [sorted(row) for row in table.tolist()] == [
            [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]

    @pytest.mark.parametrize('count', [0, 4])
    def test_too_many(self, count):
        with pytest.raises(ValueError, match='1 to 3 neighbours among 4'):
            nearest_neighbours(torch.randn(4, 2), count)


class TestModularity:
    def test_two_triangles_with_a_bridge(self):
        # Newman and Girvan's definition by hand: 7 edges, 14 ends; 6 of 7 edges inside; each
        # community has 7 ends: 6/7 - 2 · (7/14)² = 5/14.
        graph = torch.zeros(1, 6, 6)
        for i, j in ((0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3)):
            graph[0, i, j] = graph[0, j, i] = 1
        right = torch.eye(2)[[0, 0, 0, 1, 1, 1]][None]
        # A temperature well below 1 makes the tanh a yes.
        assert modularity(graph, right, .1).item() == pytest.approx(5 / 14, abs=1e-6)
        wrong = torch.eye(2)[[0, 1, 0, 1, 0, 1]][None]
        assert modularity(graph, wrong, .1) < 0
        everything = torch.ones(1, 6, 1)
        assert modularity(graph, everything, .1).item() == pytest.approx(0, abs=1e-6)

    def test_no_edges(self):
        weights = torch.rand(1, 4, 2, requires_grad=True)
        found = modularity(torch.zeros(1, 4, 4), weights)
        found.sum().backward()
        assert found.item() == 0 and torch.isfinite(weights.grad).all()

    def test_graph(self):
        features = torch.tensor([[[1., 0., -1.], [0., 2., 0.]]])  # three places: x, y, -x
        assert feature_graph(features).tolist() == [[[0, 0, 0], [0, 0, 0], [0, 0, 0]]]
        features = torch.tensor([[[1., 1.], [0., 1.]]])
        assert feature_graph(features)[0, 0].tolist() == pytest.approx([0, .5**.5])


class TestConcepts:
    def test_nearest(self):
        codebook = torch.tensor([[1., 0.], [0., 9.], [-1., 0.]])
        features = torch.tensor([[[3., -.1, -1.], [1., 5., .5]]])
        assert nearest_concepts(features, codebook).tolist() == [[0, 1, 2]]

    def test_contrast_equals_a_loop(self):
        anchors, bank = torch.randn(5, 4), torch.randn(7, 4)
        of_anchors, of_bank = torch.randint(3, (5, )), torch.tensor([0, 1, 2, 0, 1, -1, -1])
        affinity = torch.tensor([[1., .2, 0.], [.2, 1., .4], [0., .4, 1.]])
        losses, like, unlike = [], 0, 0
        for anchor, concept in zip(anchors, of_anchors, strict=True):
            pairs = [(affinity[concept, c].item(), np.exp(cosine(anchor, b) / .07))
                     for b, c in zip(bank, of_bank, strict=True) if c >= 0]
            against = sum(e for a, e in pairs if a < .1)
            terms = [-np.log(e / (e + against)) for a, e in pairs if a > .3]
            like, unlike = like + len(terms), unlike + sum(a < .1 for a, _ in pairs)
            losses.append(np.mean(terms))
        found = concept_contrast(anchors, of_anchors, bank, of_bank, affinity)
        assert found.loss.item() == pytest.approx(np.mean(losses), rel=1e-4)
        assert found.positives.item() == pytest.approx(like / 25)
        assert found.negatives.item() == pytest.approx(unlike / 25)

    @pytest.mark.parametrize('concepts', [[-1, -1], [1, 1]])
    def test_no_positive_is_no_loss(self, concepts):
        anchors = torch.randn(3, 4, requires_grad=True)
        found = concept_contrast(anchors, torch.zeros(3, dtype=torch.long), torch.randn(2, 4),
                                 torch.tensor(concepts), torch.eye(2))
        found.loss.backward()
        assert found.loss == 0 and anchors.grad.eq(0).all()

    def test_no_negative_is_finite(self):
        anchors = torch.randn(3, 4, requires_grad=True)
        zeros = torch.zeros(3, dtype=torch.long)
        found = concept_contrast(anchors, zeros, torch.randn(3, 4), zeros, torch.ones(1, 1))
        found.loss.backward()
        assert found.loss == 0 and torch.isfinite(anchors.grad).all()

    def test_teacher_gets_no_gradient(self):
        bank = torch.randn(2, 4, requires_grad=True)
        anchors = torch.randn(3, 4, requires_grad=True)
        concept_contrast(anchors, torch.tensor([0, 1, 0]), bank, torch.tensor([0, 1]),
                         torch.eye(2)).loss.backward()
        assert bank.grad is None and anchors.grad.abs().sum() > 0

    def test_thresholds(self):
        one = torch.zeros(1, dtype=torch.long)
        with pytest.raises(ValueError, match='0.1 < 0.3'):
            concept_contrast(torch.ones(1, 2), one, torch.ones(1, 2), one, torch.eye(1), .1, .3)
