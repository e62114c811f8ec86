# make demo     load, train and distil, offline and on a CPU
# make test     lint, types, tests
# make format   what `make test` asks of the layout
# make bench    every benchmark
#
# Each sets up .venv the first time, and again when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
ARTIFACTS := cifar10-infer-ipc10 cifar10-random-ipc10
DEMO := demo-out/cifar10-mini-infer-ipc5

.PHONY: demo test format bench

demo: $(READY)
	$(BIN)/ddhub list
	$(BIN)/ddhub verify $(ARTIFACTS)
	$(BIN)/ddhub train $(ARTIFACTS) --model convnet3 --protocol infer-static --epochs 20 --test cifar10-mini
	rm -rf $(DEMO) $(DEMO).work
	$(BIN)/python -m recipes infer $(DEMO) --dataset cifar10-mini --ipc 5 \
	  --teachers convnet3-bn-w32,resnet18-w8 --teacher-epochs 3 --steps 30 --protocol infer-static-50
	$(BIN)/ddhub verify $(DEMO)

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	for file in benchmarks/*.py; do $(BIN)/python $$file || exit 1; done

# torch alone and first, by its bare version: pip then takes a CPU build where the machine offers one.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install torch==2.13.0
	$(BIN)/pip install -c constraints.txt -e ".[dev]"
	touch $@
