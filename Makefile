# make demo    train, score and use a network on an embedded sample of rendered scenes
# make test    check the style and run all tests
# make quick   check the style and run the tests that train nothing: before every commit
# make lint    check layout, style, types, imports and links
# make bench   measure speed and memory, and renew the tables and the picture of docs/speed.md
# make gpu     check and measure a GPU (ten minutes; without .venv, with the python that is there)
# make stress  crash trainings and feed damaged files, by the hundred and thousand, and run the tests
#              that are too long for `make test` (an hour)
# Each sets up .venv first; remove that folder to start afresh. Tests compare networks with those of
# mit-semseg, whose own dependencies are old and not needed for that.

PYTHON ?= python3
BIN := .venv/bin

# Settings that learn something in a few minutes on two cores: an optimiser for training from
# scratch, and crops of 128 pixels, which suit the fast convolutions of models/winograd.py.
RECIPE := --arch_encoder resnet34_dilated8 --weights_encoder none --imgSize 128 --segSize 128 \
	--batch_size_per_gpu 8 --num_epoch 5 --eval_epoch 2 --optim Muon --beta1 0.95 \
	--lr_encoder 0.005 --lr_decoder 0.005 --weight_decay 0.01 --norm_weight_decay 0
HELD_OUT := data/sample/images/validation/ADE_val_00000001.jpg

.PHONY: setup demo test quick lint bench gpu stress

setup: .venv/ready

.venv/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps 'mit-semseg>=1,<2'
	touch $@

demo: setup
	rm -rf ckpt/demo vis/demo result/demo
	$(BIN)/python data/make_sample.py
	$(BIN)/python train.py --id demo --data data/sample $(RECIPE)
	$(BIN)/python eval.py --id demo --visualize 1
	$(BIN)/python test.py --id demo --test_img $(HELD_OUT) --imgSize -1 --result result/demo
	@echo "Pictures: vis/demo (while training), result/demo (in the end); curves: ckpt/demo"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not stress"

quick: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not stress"

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/tach check
	@if git rev-parse --git-dir >/dev/null 2>&1; then $(BIN)/md-dead-link-check; \
	else echo "links are not checked outside of a git clone"; fi

bench: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	$(BIN)/python -m benchmarks

gpu:
	$(if $(wildcard .venv/ready),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu

stress: setup
	$(BIN)/python -m stress
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m stress
