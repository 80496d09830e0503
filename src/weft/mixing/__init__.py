"""Mixing below the token: models of tokens and what the text itself says, bit by bit; exact, as all that scores."""

from weft.mixing.mixer import ByteMixer as ByteMixer
from weft.mixing.tree import Tree as Tree
from weft.mixing.tree import make_tree as make_tree
from weft.mixing.tree import tree_of as tree_of
