"""Save the pretrained weights of a timm model as one safetensors file (needs the network)."""
from __future__ import annotations

import argparse

from mmseg_dhr.formats import atomic_path
from mmseg_dhr.utils import UserError
from mmseg_dhr.utils.cli import friendly_errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', help='for example vit_small_patch14_dinov2.lvd142m')
    parser.add_argument('out', help='file to write, .safetensors')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    args = parser.parse_args()
    with friendly_errors(args.debug):
        import timm
        from safetensors.torch import save_file
        try:
            model = timm.create_model(args.model, pretrained=True, num_classes=0)
        except (OSError, RuntimeError) as error:
            raise UserError(f'Could not get the weights of {args.model} ({error}). Check the name '
                            'and the network, or bring the file from another machine.') from error
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        with atomic_path(args.out) as temporary:
            save_file(state, temporary)
        print(f'wrote {args.out}: {len(state)} tensors of {args.model}')


if __name__ == '__main__':
    main()
