"""The paper's ablations on any configured data set: one pass of the network, one row per setting.

    components  Tables 5, 6, 8, 9: seeds, USS, WSS and transport on and off
    marginals   class masses of the transport, hard and relaxed, with the oracle
    readings    the readings of Eqs. 2-4: variants, plan, pooling, centring, merge, R_C
    tau         Fig. 8: threshold of the USS correlation, as a table and a plot

Every table has M_base and the two controls without transport. Needs true masks (`score_masks` of
the config), which training never reads.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

# Before torch is loaded; see mmseg_dhr/utils/process.py.
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

from mmengine.config import Config

from mmseg_dhr.apis.ablation import BASE, CONTROLS, ablate, figures_of
from mmseg_dhr.apis.analysis import settings_of, settings_text, truth_folder, write_result
from mmseg_dhr.apis.build import build_dataset, build_model, propagation_of
from mmseg_dhr.evaluation import Scores
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import add_config_arguments, config_from, friendly_errors, positive_int
from mmseg_dhr.visualization import format_table, plot_lines

COMPONENTS = {
    'USS': dict(steps=('uss', )),
    'WSS': dict(steps=('wss', )),
    'USS + WSS': dict(steps=('uss', 'wss')),
    'seeds + USS': dict(steps=('seeds', 'uss')),
    'seeds + WSS': dict(steps=('seeds', 'wss')),
    'seeds + USS + WSS (DHR)': dict(),
    'DHR, no transport': dict(transport=False),
    'DHR, no R_C': dict(refine=None),
}
MARGINALS = {
    'uniform (paper)': dict(marginal='uniform', relax=None),
    'area': dict(marginal='area', relax=None),
    'sqrt_area': dict(marginal='sqrt_area', relax=None),
    'sqrt_foreground': dict(marginal='sqrt_foreground', relax=None),
    'uniform, rho 0.03': dict(marginal='uniform', relax=0.03),
    'uniform, rho 0.1': dict(marginal='uniform', relax=0.1),
    'uniform, rho 0.3': dict(marginal='uniform', relax=0.3),
    'sqrt_foreground, rho 0.1': dict(marginal='sqrt_foreground', relax=0.1),
    'sqrt_area, rho 0.1': dict(marginal='sqrt_area', relax=0.1),
    'sqrt_area, reg 0.05': dict(marginal='sqrt_area', relax=None, reg=0.05),
    'sqrt_area, reg 0.2': dict(marginal='sqrt_area', relax=None, reg=0.2),
    'oracle: true shares': dict(marginal='shares', relax=None, shares='true'),
}
PREDICTED = {
    'predicted shares': dict(marginal='shares', relax=None, share_floor=0.02),
    'predicted shares, rho 0.1': dict(marginal='shares', share_floor=0.02, relax=0.1),
}
READINGS = {
    'defaults': dict(),
    'grouped': dict(variant='grouped'),
    'components': dict(variant='components'),
    'components, centred per image': dict(variant='components', center='image'),
    'paper, centred per image': dict(center='image'),
    'raw plan': dict(plan='raw'),
    'majority vote': dict(pooling='majority'),
    'merge all': dict(merge='all'),
    'PAMR': dict(refine=dict(type='PAMR')),
}
TAUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(11))
HEADER = ('masks', 'mIoU', 'with R_C', 'multi', 'with R_C', 'vanished %', 'rec<10 %',
          'small rec<10 %')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='gives CAMs and WSS features, e.g. warmup.pth')
    parser.add_argument('--tables', nargs='+', default=['components'],
                        choices=['components', 'marginals', 'readings', 'tau'])
    parser.add_argument('--predicted-shares', action='store_true',
                        help='add rows whose class shares the segmentor estimates; the checkpoint '
                        'must have been trained on masks')
    parser.add_argument('--rows', nargs='+', help='only these rows, beside M_base')
    parser.add_argument('--every', type=positive_int, default=1,
                        help='take every N-th image (default: 1)')
    parser.add_argument('--batch-size', type=positive_int, default=8, help='(default: 8)')
    parser.add_argument('--masks', metavar='DIR', help='write the masks of every row to DIR/ROW')
    parser.add_argument('--out', help='folder of tables and plots (default: WORK_DIR/ablation)')
    add_config_arguments(parser)
    return parser.parse_args()


def rows_of(tables: list[str], predicted: bool, only: list[str] | None) -> dict[str, dict]:
    """The settings of the tables, controls first.

    Raises:
        UserError: If a row is unknown.
    """
    known = dict(components=COMPONENTS, marginals=MARGINALS, readings=READINGS,
                 tau={f'tau {tau:g}': dict(tau=tau) for tau in TAUS})
    rows = dict(CONTROLS)
    for table in tables:
        rows.update(known[table])
    if predicted:
        rows.update(PREDICTED)
    if only is None:
        return rows
    if missing := sorted(set(only) - set(rows)):
        raise UserError(f'Unknown rows {missing}; the tables have {sorted(rows)}.')
    return {name: rows[name] for name in only}


def table_row(name: str, before: Scores, after: Scores) -> tuple[str, ...]:
    """A line: figures before and after R_C; the counts of lost classes after it."""
    figures = (before.all.miou, after.all.miou, before.multi.miou, after.multi.miou,
               after.all.vanished, after.all.lost, after.all.small_lost)
    return (name, *(f'{value:.1f}' for value in figures))


def run(args: argparse.Namespace, config: Config) -> tuple[str, dict[str, tuple[Scores, Scores]]]:
    """Caption and scores of all rows."""
    propagation = propagation_of(config.model)
    dataset = build_dataset(config, expects_base=True)
    model = build_model(config, args.checkpoint)
    rows = rows_of(args.tables, args.predicted_shares, args.rows)
    scores = ablate(model, dataset, rows, truth_folder(config, dataset), propagation,
                    args.every, args.batch_size, args.masks)
    count = next(iter(scores.values()))[0]
    caption = (f'Pseudo-labels of {count.all.images} training images ({count.multi.images} with '
               'two or more classes), online (single scale); R_C on a grid of '
               f'{propagation.get("stride", 4)} px, that of M_base as it was made; '
               'counts of lost classes with R_C')
    return caption, scores


def main() -> None:
    args = parse_args()
    with friendly_errors(args.debug):
        config = config_from(args)
        out = Path(args.out or Path(config.work_dir) / 'ablation')
        caption, scores = run(args, config)
        settings = settings_of(config, checkpoint=args.checkpoint, every=args.every)
        if 'tau' in args.tables:
            _plot_tau(out / 'tau.png', scores)
        table = [table_row(name, *pair) for name, pair in scores.items()]
        text = f'{caption}\n{settings_text(settings)}\n{format_table(HEADER, table)}'
        path = write_result(out, 'ablation', text, settings, figures_of(scores))
        print(f'\n{text}\n\nAll figures: {path}')


def _plot_tau(path: Path, scores: dict[str, tuple[Scores, Scores]]) -> None:
    lines = {
        'all images': [scores[f'tau {tau:g}'][1].all.miou for tau in TAUS],
        'two or more classes': [scores[f'tau {tau:g}'][1].multi.miou for tau in TAUS],
    }
    if BASE in scores:
        lines['M_base, all images'] = [scores[BASE][1].all.miou] * len(TAUS)
    plot_lines(path, TAUS, lines, xlabel='tau', ylabel='mIoU of M_dh (%)')


if __name__ == '__main__':
    main()
