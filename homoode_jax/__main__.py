"""The command `homoode`, which is `python -m homoode_jax` too."""

import sys


def main() -> None:
    """Runs the command; without what it needs, says what to install."""
    try:
        from homoode_jax.experiments.main import homoode
    except ModuleNotFoundError as error:
        print(
            f"error: the command needs {error.name}: pip install 'homoode-jax[train]'",
            file=sys.stderr,
        )
        sys.exit(2)
    homoode()


if __name__ == "__main__":
    main()
