"""The way in, `mql4grec` and `python -m mql4grec`: signals first, imports afterwards."""

from mql4grec import signals


def main() -> None:
    """Run the command line; Ctrl-C ends it with exit code 130, SIGTERM with 143, both quietly."""
    signals.install()
    try:
        from mql4grec import cli

        cli.main()
    except (signals.Stopped, KeyboardInterrupt) as err:
        signals.end(err.args[0] if err.args else None)
    except Exception:
        if not signals.is_stopping():
            raise
        signals.end(None)


if __name__ == "__main__":
    main()
