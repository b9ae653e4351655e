import argparse
import sys
from datetime import date

from fvlm.config import ConfigError
from fvlm.findings import __doc__ as purpose
from fvlm.findings.page import PAGE, README, render, with_answer
from fvlm.findings.prediction import LARGEST, predict
from fvlm.results import write_text


def main():
    parser = argparse.ArgumentParser(prog="python -m fvlm.findings", description=purpose.partition("\n\n")[0])
    parser.add_argument("--predict", action="store_true", help=f"predict {LARGEST} from the smaller sizes, before it is run")
    if parser.parse_args().predict:
        print(predict(date.today().isoformat()))
    print(write_text(PAGE, render()))
    print(write_text(README, with_answer(README.read_text())))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
