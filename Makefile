.PHONY: install test slow e2e style predict

install:
	pip install -e ".[dev]"

test:
	python -m pytest

slow:
	python -m pytest -m slow

e2e:
	python -m pytest tests/test_e2e.py

style:
	ruff check --fix .
	ruff format .

predict:
	transformers-msstsvis predict
