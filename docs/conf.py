"""How Sphinx builds this documentation: `make docs`."""

import hasql

project = "hasql"
author = "The hasql authors"
project_copyright = "The hasql authors"
version = release = hasql.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
# A single backtick in a docstring names a thing of the module it stands in, as in Python's own.
default_role = "py:obj"
highlight_language = "python"

# A reference to something of ours that is not there is an error; the libraries of others are not
# looked up, which would need the network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!hasql\.).*"),
    # What a public signature names and no user imports.
    (
        r"py:.*",
        r"hasql\.(?:.*\._|_|balancer_policy\.base\.|cluster\.|driver\.|settings\.fields\.).*",
    ),
    (r"py:class", r"hasql\.resilience\.shutdown\.(?:Async)?Drainable"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# What needs SQLAlchemy 1.4 cannot be imported beside what needs 2.
autodoc_mock_imports = ["aiopg.sa", "asyncpgsa"]
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"hasql {release}"
html_logo = "../resources/logo.svg"
html_copy_source = False
html_show_sphinx = False
