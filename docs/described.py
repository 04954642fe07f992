"""For the documentation: `Recipe` as it describes itself when it is imported, from the help of the options."""

import griffe

from aigciqa.training.recipe import Recipe


class Described(griffe.Extension):
    def on_class(self, *, cls: griffe.Class, **_: object) -> None:
        if cls.path == "aigciqa.training.recipe.Recipe" and Recipe.__doc__:
            cls.docstring = griffe.Docstring(Recipe.__doc__, parent=cls)
