.PHONY: install test slow style predict

install:
	pip install -e ".[dev]"

test:
	python -m pytest

slow:
	python -m pytest -m slow

style:
	ruff check --fix .
	ruff format .

predict:
	python scripts/predict.py
