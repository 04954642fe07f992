"""Messages: parameters have the names of options in commands, and warnings are lines."""

import pickle
import warnings

import click
import pytest
from click.testing import CliRunner

from aigciqa import AigciqaWarning, InputError
from aigciqa.cli import Command
from aigciqa.errors import Parameter

PARTS = (
    "no image in x=1; pass ",
    Parameter("images", "FOLDER"),
    " or ",
    Parameter("columns", "a=b", "{'a': 'b'}"),
)


@click.command(cls=Command)
@click.option("--images")
@click.option("--column", "-c", "columns", multiple=True)
def refuse(images, columns):
    raise InputError(*PARTS)


@click.command(cls=Command)
def warn():
    warnings.warn("nothing fits", AigciqaWarning, stacklevel=2)
    click.echo("done")


def test_a_message_has_the_parameters_of_python():
    error = InputError(*PARTS)
    assert str(error) == "no image in x=1; pass images=FOLDER or columns={'a': 'b'}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # from a worker process
    assert str(InputError("as it is")) == "as it is"
    assert str(Parameter("images")) == "images"


def test_a_command_shows_its_options_instead():
    done = CliRunner().invoke(refuse)
    assert done.exit_code == 2
    assert done.stderr == "error: no image in x=1; pass --images FOLDER or --column a=b\n"


def test_a_command_without_the_option_shows_the_parameter():
    assert InputError(*PARTS).shown({"columns": "--column"}).endswith("pass images=FOLDER or --column a=b")


@pytest.mark.parametrize("action", ["default", "error", "ignore"])
def test_a_warning_of_ours_is_a_line_whatever_the_filters_are(action):
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        done = CliRunner().invoke(warn)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "done\n", "warning: nothing fits\n")
