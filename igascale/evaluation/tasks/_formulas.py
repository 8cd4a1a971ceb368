r"""A formula as a tree, by a parser of its own: no text of a model's is ever evaluated as code.

A tree is a tuple of an operation and its arguments: ``("number", "1.5")``, ``("name", "x")``, ``("+", a, b)``, ``("*", a, b)``,
``("/", a, b)``, ``("^", a, b)``, ``("-", a)``, ``("!", a)``, ``("root", n, a)``, ``("binom", n, k)``, or a function's name and one
argument. Lists of lists in JSON.

    sum      = [sign] product { sign product }
    product  = factor { ["*" | "/"] factor }         from left to right; a number never follows without a sign
    factor   = [sign] primary { "^" factor | "!" }
    primary  = number | name [subscript] | "(" sum ")" | "|" sum "|" | \frac{}{} | \sqrt[n]{} | \binom{}{} | function argument
"""

from __future__ import annotations

from typing import Any

from igascale.evaluation.tasks._tokens import FUNCTIONS, Token, Unreadable, plain_formula, tokens

Tree = tuple[Any, ...]
MAX_DEPTH = 30
_CLOSING = {"(": ")", "[": "]", "{": "}"}
#: Where the power -1 means the inverse function.
_INVERTIBLE = {"sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth"}
_END = Token("end", "the end", -1)


def expression(text: str) -> Tree:
    r"""The tree of an expression. Of ``y = x = 2 z``, with nothing but names left of it, that of what is right.

    Names are case-sensitive; runs of letters are products (``mgh``), but for names that TeX has (``sin``, ``omega``). Words in
    ``\text{}`` behind it, a unit, are left out.

    Raises:
        Unreadable: it is none.
    """
    formula = plain_formula(text)
    *before, formula = formula.split("=")
    for side in before:
        _Parser(tokens(side, letters=True)).only_a_name()
    parser = _Parser(tokens(formula, letters=True))
    tree = parser.sum()
    if any(token.kind != "text" for token in parser.rest()):
        raise Unreadable(f"'{parser.next.value}' where the formula should end")
    return tree


def leading_number(formula: str) -> tuple[Tree, str]:
    """The tree of the longest formula without variables that a :func:`plain_formula` begins with, and the text behind it.

    Raises:
        Unreadable: it begins with none.
    """
    parser = _Parser(tokens(formula, letters=False), letters=False)
    tree = parser.sum()
    return tree, "" if parser.next is _END else formula[parser.next.start :]


class _Parser:
    """Recursive descent over tokens."""

    def __init__(self, found: list[Token], letters: bool = True) -> None:
        self._tokens = found
        self._position = 0
        self._depth = 0
        self._bars = 0
        self._letters = letters

    @property
    def next(self) -> Token:
        """The token that comes."""
        return self._tokens[self._position] if self._position < len(self._tokens) else _END

    def rest(self) -> list[Token]:
        """All that come."""
        return self._tokens[self._position :]

    def sum(self) -> Tree:
        """See the grammar."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        tree = self._product()
        while self.next.value in ("+", "-") and self.next.kind == "sign":
            minus = self._take().value == "-"
            term = self._product()
            tree = ("+", tree, ("-", term) if minus else term)
        self._depth -= 1
        return tree

    def only_a_name(self) -> None:
        """That the whole is a name, with a subscript or an argument perhaps: ``V``, ``v_0``, ``f(x)``.

        Raises:
            Unreadable: it is more.
        """
        tree = self._primary() if self.next.kind == "name" else ("",)
        if tree[0] == "name" and self.next.value == "(":
            self._group()
        if tree[0] != "name" or self.next is not _END:
            raise Unreadable("an equation, not an expression")

    def _take(self, value: str | None = None) -> Token:
        token = self.next
        if value is not None and token.value != value:
            raise Unreadable(f"'{token.value}' where '{value}' should be")
        self._position += 1
        return token

    def _product(self) -> Tree:
        negative = self.next == ("sign", "-", self.next.start)
        if self._is("+") or self._is("-"):
            self._take()
        tree = self._factor()
        while True:
            if self._is("*") or self._is("/"):
                tree = (self._take().value, tree, self._factor())
            elif self._begins_factor():
                mixed = self._tokens[self._position - 1].kind == "number" and self.next.value == "frac"
                before = self._position, self._depth, self._bars
                try:
                    right = self._factor()
                except Unreadable:
                    if self._letters:
                        raise
                    self._position, self._depth, self._bars = before  # perhaps a unit: "(m/s)", "sec"
                    return ("-", tree) if negative else tree
                if mixed and right[0] == "/" and right[1][0] == right[2][0] == "number":
                    raise Unreadable("a mixed number or a product")
                tree = ("*", tree, right)
            else:
                return ("-", tree) if negative else tree

    def _factor(self) -> Tree:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Unreadable(f"nested deeper than {MAX_DEPTH}")
        if self._is("-") or self._is("+"):
            tree: Tree = ("-", self._factor()) if self._take().value == "-" else self._factor()
        else:
            tree = self._primary()
            while self._is("^") or self._is("!"):
                tree = ("^", tree, self._factor()) if self._take().value == "^" else ("!", tree)
        self._depth -= 1
        return tree

    def _primary(self) -> Tree:
        token = self._take()
        if token.kind == "number":
            return ("number", token.value.replace(" ", ""))
        if token.kind == "sign" and token.value in _CLOSING:
            tree = self.sum()
            self._take(_CLOSING[token.value])
            return tree
        if token.kind == "sign" and token.value == "|":
            self._bars += 1
            tree = self.sum()
            self._take("|")
            self._bars -= 1
            return ("abs", tree)
        if token.kind != "name":
            raise Unreadable(f"'{token.value}' is not read here")
        if token.value == "frac":
            return ("/", self._argument(), self._argument())
        if token.value == "binom":
            return ("binom", self._argument(), self._argument())
        if token.value == "sqrt":
            return self._root()
        if token.value in FUNCTIONS:
            return self._function(token.value)
        return self._name(token.value)

    def _group(self) -> Tree:
        opening = self._take().value
        tree = self.sum()
        self._take(_CLOSING[opening])
        return tree

    def _argument(self) -> Tree:
        r"""What stands behind ``\frac``: a group, or one character."""
        token = self.next
        if token.kind == "number" and len(token.value) > 1 and token.value.isdigit():
            self._tokens[self._position] = Token("number", token.value[1:], token.start + 1)
            return ("number", token.value[0])
        return self._group() if self._is("{") else self._primary()

    def _root(self) -> Tree:
        degree: Tree = ("number", "2")
        if self._is("["):
            degree = self._group()
        whole_number = self.next.kind == "number"  # √12 is not TeX's \sqrt12, and the first is what is meant
        return ("root", degree, self._primary() if whole_number else self._argument())

    def _function(self, name: str) -> Tree:
        base = power = None
        if name == "log" and self._is("_"):
            self._take()
            base = self._argument() if self._is("{") else self._primary()
        if self._is("^"):
            self._take()
            power = self._argument() if self._is("{") else self._factor()
        if any(self._is(opening) for opening in _CLOSING):
            argument = self._group()
        else:
            argument = self._factor()
            while self._begins_factor() and self.next.value not in FUNCTIONS:
                argument = ("*", argument, self._factor())
        if power == ("-", ("number", "1")) and name in _INVERTIBLE:
            return (f"arc{name}", argument)
        tree: Tree = (name, argument) if base is None else ("/", ("ln", argument), ("ln", base))
        return tree if power is None else ("^", tree, power)

    def _name(self, name: str) -> Tree:
        if not self._is("_"):
            return ("name", name)
        self._take()
        if not self._is("{"):
            return ("name", f"{name}_{self._take().value}")
        self._take()
        parts = []
        while not self._is("}"):
            if self.next is _END or self._is("{"):
                raise Unreadable("a subscript without an end, or with braces inside")
            parts.append(self._take().value)
        self._take()
        return ("name", f"{name}_{''.join(parts)}")

    def _is(self, sign: str) -> bool:
        return self.next.kind == "sign" and self.next.value == sign

    def _begins_factor(self) -> bool:
        token = self.next
        return token.kind == "name" or (
            token.kind == "sign" and (token.value in _CLOSING or (token.value == "|" and not self._bars))
        )
