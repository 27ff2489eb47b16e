"""Packaging metadata of jopd; tools are configured in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="jopd",
    version="0.1.0",
    description="On-policy distillation of language models, native to JAX.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The configs are one copy, beside the package here and inside of it in a wheel.
    packages=[*find_packages(include=["jopd", "jopd.*"]), "jopd.configs"],
    package_dir={"jopd.configs": "configs"},
    package_data={"jopd": ["assets/**/*"]},
    entry_points={"console_scripts": ["jopd = jopd.__main__:main"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "transformers>=5.0",
        "ml-collections>=1.1",
        "chex>=0.1.92",
        "safetensors>=0.8",
        "jinja2>=3.1",
        "math-verify>=0.9",
        "rapidfuzz>=3.9",
        "httpx2>=2.0",
        "rich>=13",
        "matplotlib>=3.10",
        "numpy>=2.0",
    ],
    extras_require={
        "test": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "scipy>=1.14",
            "pyarrow>=18",
            "tensorboardX>=2.6",
            "nbclient>=0.10",
            "ipykernel>=6",
            "ruff>=0.14",
            "starlette>=0.46",
            "uvicorn>=0.30",
        ],
        # The second for a test against a real server, `transformers serve`; the third's
        # losses are private functions, so one version.
        "parity": [
            "torch==2.13.0",
            "transformers[serving]>=5.23",
            "trl==1.16.0",
            "peft>=0.18",
        ],
        "serve": ["starlette>=0.46", "uvicorn>=0.30"],
        "data": ["datasets>=4", "pyarrow>=18"],
        "track": ["tensorboardX>=2.6", "wandb>=0.20"],
        "tpu": ["jax[tpu]"],
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
