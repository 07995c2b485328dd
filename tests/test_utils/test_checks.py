from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from PIL import Image
from torch import nn

from mmseg_dhr.utils import (
    UserError,
    check_checkpoint,
    check_datasets,
    leaf_datasets,
    naming_broken_files,
)
from mmseg_dhr.utils.checks import missing_part, read_checkpoint, spare_inputs


@pytest.fixture
def leaf(tmp_path) -> dict:
    """Config of a data set that is there."""
    for folder in ('JPEGImages', 'SegmentationClassAug', 'ImageSets'):
        (tmp_path / folder).mkdir()
    Image.new('RGB', (4, 3)).save(tmp_path / 'JPEGImages/a.png')
    Image.new('L', (4, 3)).save(tmp_path / 'SegmentationClassAug/a.png')
    (tmp_path / 'ImageSets/train.txt').write_text('a\n')
    return dict(type='BaseSegDataset', data_root=str(tmp_path), ann_file='ImageSets/train.txt',
                img_suffix='.png',
                data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClassAug'))


def config(dataset: dict, split: str = 'train') -> dict:
    return {f'{split}_dataloader': dict(dataset=dataset)}


def test_leaf_datasets():
    leaves = [dict(type=name) for name in 'abc']
    nested = dict(type='Concat', datasets=[
        dict(type='Tagged', dataset=leaves[0]),
        dict(type='Concat', datasets=leaves[1:])])
    assert list(leaf_datasets(nested, 'd')) == [
        ('d.datasets[0].dataset', leaves[0]), ('d.datasets[1].datasets[0]', leaves[1]),
        ('d.datasets[1].datasets[1]', leaves[2])]
    assert list(leaf_datasets(leaves[0], 'd')) == [('d', leaves[0])]


def test_a_data_set_that_is_there_passes(leaf):
    check_datasets(config(leaf))
    check_datasets(config(dict(type='TaggedDataset', dataset=leaf)))
    check_datasets(dict(train_dataloader=None))


@pytest.mark.parametrize(('change', 'key'), [
    (dict(data_root='no/such'), 'data_root'),
    (dict(ann_file='no.txt'), 'ann_file'),
    (dict(data_prefix=dict(img_path='no')), 'data_prefix.img_path'),
    (dict(data_prefix=dict(seg_map_path='no')), 'data_prefix.seg_map_path'),
])
def test_what_is_missing_is_named(leaf, change, key):
    wrapped = dict(type='TaggedDataset', dataset={**leaf, **change})
    with pytest.raises(UserError) as error:
        check_datasets(config(wrapped, 'val'))
    text = str(error.value)
    assert f'`val_dataloader.dataset.dataset.{key}`' in text
    for part in ('no', ' hold', '--data-root', 'MMSEG_DHR_DATA'):
        assert part in text
    check_datasets(config(wrapped, 'val'), ['train', 'test'])  # not asked for


def test_what_is_there_is_listed(leaf):
    with pytest.raises(UserError, match='found in .*: ImageSets, JPEGImages, Segmentation'):
        check_datasets(config({**leaf, 'ann_file': 'no.txt'}))
    with pytest.raises(UserError, match=r'found in .*/ImageSets: train\.txt\.'):
        check_datasets(config({**leaf, 'ann_file': 'ImageSets/no.txt'}))


@pytest.mark.parametrize('change', [dict(backend_args=dict(backend='petrel')),
                                    dict(type='ScenesDataset')])
def test_what_is_not_on_this_disk_yet_is_not_checked(leaf, change):
    check_datasets(config({**leaf, **change, 'data_root': 'no/such'}))


def test_missing_part(leaf):
    assert missing_part({**leaf, 'data_prefix': dict(img_path='JPEGImages', seg_map_path='no')}) \
        is None  # only what is asked for
    text = missing_part({**leaf, 'ann_file': 'lists/trainaug.txt'}, 'train_set.')
    for part in ('lists/trainaug.txt: not found (`train_set.ann_file`)', 'voc_trainaug.py'):
        assert part in text


@pytest.mark.parametrize('file', ['JPEGImages/a.png', 'SegmentationClassAug/a.png'])
def test_broken_file_is_found(leaf, tmp_path, file, mmseg_modules):
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:40])
    with pytest.raises(UserError, match=f'{file}: expected a whole image file'), \
            naming_broken_files(config(leaf), ['train']):
        raise OSError('cannot identify image file <_io.BytesIO>')


def test_only_errors_of_image_readers_start_the_search(leaf, tmp_path, mmseg_modules):
    (tmp_path / 'JPEGImages/a.png').write_bytes(b'')
    with pytest.raises(OSError, match='disk full'), naming_broken_files(config(leaf), ['train']):
        raise OSError('disk full')


def test_the_error_passes_if_all_files_are_whole(leaf, mmseg_modules):
    with pytest.raises(OSError, match='truncated'), naming_broken_files(config(leaf), ['train']):
        raise OSError('image file is truncated (3 bytes not processed)')


class Net(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.decode_head = nn.Conv2d(4, classes, 1)
        self.cam_head = nn.Conv2d(4, classes, 1)


def save(path, state, **extra):
    torch.save(dict(state_dict=state, **extra), path)
    return path


def test_fitting_checkpoints_pass(tmp_path):
    state = Net().state_dict()
    check_checkpoint(Net(), save(tmp_path / 'a.pth', state))
    check_checkpoint(nn.DataParallel(Net()), save(tmp_path / 'b.pth', state))
    torch.save({f'module.{key}': value for key, value in state.items()}, tmp_path / 'c.pth')
    check_checkpoint(Net(), tmp_path / 'c.pth')  # weights alone, from a distributed training
    for key in list(state):
        if key.startswith('cam_head') or key.endswith('num_batches_tracked'):
            del state[key]
    check_checkpoint(Net(), save(tmp_path / 'd.pth', {**state, 'surplus': torch.zeros(1)}))


def test_other_class_count(tmp_path):
    path = save(tmp_path / 'a.pth', Net(5).state_dict())
    with pytest.raises(UserError, match=r'decode_head.weight has shape \(5, 4, 1, 1\) there, but '
                       r'the config makes \(3, 4, 1, 1\)'):
        check_checkpoint(Net(3), path)


def test_other_model(tmp_path):
    path = save(tmp_path / 'a.pth', {f'segmentor.{k}': v for k, v in Net().state_dict().items()})
    with pytest.raises(UserError, match="such as backbone.0.weight; it holds 'segmentor.backbone"):
        check_checkpoint(Net(), path)


@pytest.mark.parametrize('content', [b'', b'text', 'list', 'pickle'])
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / 'a.pth'
    if content == 'list':
        torch.save([1], path)
    elif content == 'pickle':
        torch.save(dict(state_dict={}, hook=Net()), path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match='a.pth: '):
        check_checkpoint(Net(), path)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(UserError, match='absent.pth: no such checkpoint'):
        check_checkpoint(Net(), tmp_path / 'absent.pth')


def test_read_checkpoint(tmp_path):
    state = dict(weight=torch.ones(2))
    meta = dict(dataset_meta=dict(classes=['a']), value=np.float64(1))
    read, read_meta = read_checkpoint(save(tmp_path / 'a.pth', state, meta=meta))
    assert torch.equal(read['weight'], state['weight'])
    assert read_meta == meta


def test_read_a_checkpoint_of_a_runner(tmp_path):
    """All of it is read, with the histories that mmengine keeps; torch 2.6 alone refuses these."""
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    hub = MessageHub('test_read_a_checkpoint_of_a_runner')
    hub.update_scalar('train/loss', np.float32(.5))
    hub.update_info('iter', np.int64(7))
    path = save(tmp_path / 'a.pth', net.state_dict(), meta=dict(iter=7, seed=None),
                optimizer=optimizer.state_dict(), message_hub=hub.state_dict())
    state, meta = read_checkpoint(path)
    assert meta == dict(iter=7, seed=None)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert list(state) == list(net.state_dict())


class Hostile:
    """Its pickle makes a folder."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path, )


@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_of_a_hostile_checkpoint_is_run(tmp_path, legacy):
    """With any version of torch."""
    torch.save(dict(state_dict=Net().state_dict(), meta=Hostile(tmp_path / 'made')),
               tmp_path / 'a.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r'a\.pth: the pickle asks for posix\.mkdir'):
        check_checkpoint(Net(), tmp_path / 'a.pth')
    assert not (tmp_path / 'made').exists()


def test_what_is_read_is_not_written_over(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'masks')
    spare_inputs([tmp_path / 'out'], [tmp_path / 'masks', tmp_path])
    for out in ('masks', 'link', 'a/../masks'):
        with pytest.raises(UserError, match=f'{out}: it is read here'):
            spare_inputs([tmp_path / 'out', tmp_path / out], [tmp_path / 'masks'])
