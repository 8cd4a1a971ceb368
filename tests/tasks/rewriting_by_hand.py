r"""An independent statement of what MATH's reference comparison does, character by character, without regular expressions.

The rules in the order in which they apply (hendrycks/math, modeling/math_equivalence.py, read for its behaviour):

 1. line breaks, then \! , are deleted              9. \% is deleted, and again
 2. \\ becomes \                                   10. a blank or { before a dot gets a 0 behind it; so does a dot at the start
 3. tfrac, then dfrac, become frac                 11. with exactly one =, and at most two characters before it: what is behind it
 4. \left, then \right, are deleted                12. \sqrt and a character that is no {: braces around that character
 5. ^{\circ}, then ^\circ, are deleted             13. blanks are deleted
 6. \$ is deleted                                  14. \frac and two characters: braces; stops, undone, where one is missing
 7. a first "\text{ " cuts everything behind it    15. 0.5 alone becomes \frac{1}{2}
 8. (twice: no rewriting at all)                   16. integer/integer alone becomes \frac{integer}{integer}

Where \sqrt or \frac is followed by nothing there is no rewriting at all, and the two strings are compared as they are.
"""


class NoRewriting(Exception):
    pass


def delete(text: str, what: str) -> str:
    return exchange(text, what, "")


def exchange(text: str, old: str, new: str) -> str:
    result, i = [], 0
    while i < len(text):
        if text[i : i + len(old)] == old:
            result.append(new)
            i += len(old)
        else:
            result.append(text[i])
            i += 1
    return "".join(result)


def rewrite(text: str) -> str:
    for what in ("\n", "\\!"):
        text = delete(text, what)
    text = exchange(text, "\\\\", "\\")
    for word in ("tfrac", "dfrac"):
        text = exchange(text, word, "frac")
    for what in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"):
        text = delete(text, what)
    unit = text.find("\\text{ ")
    if unit >= 0:
        if text.find("\\text{ ", unit + 1) >= 0:
            raise NoRewriting
        text = text[:unit]
    text = delete(delete(text, "\\%"), "\\%")
    text = exchange(exchange(text, " .", " 0."), "{.", "{0.")
    if not text:
        return ""
    if text[0] == ".":
        text = "0" + text
    signs = [i for i, character in enumerate(text) if character == "="]
    if len(signs) == 1 and signs[0] <= 2:
        text = text[signs[0] + 1 :]
    text = delete(roots(text), " ")
    text = fractions(text)
    if text == "0.5":
        text = "\\frac{1}{2}"
    return slash(text)


def roots(text: str) -> str:
    result, i = "", 0
    while i < len(text):
        if text[i : i + 5] == "\\sqrt":
            behind = text[i + 5 :]
            if not behind or behind[:5] == "\\sqrt":
                raise NoRewriting
            result += "\\sqrt" if behind[0] == "{" else "\\sqrt{" + behind[0] + "}"
            i += 5 if behind[0] == "{" else 6
        else:
            result += text[i]
            i += 1
    return result


def fractions(text: str) -> str:
    result, i = "", 0
    while i < len(text):
        if text[i : i + 5] != "\\frac":
            result += text[i]
            i += 1
            continue
        i += 5
        end = text.find("\\frac", i)
        piece = text[i : len(text) if end < 0 else end]
        if not piece:
            raise NoRewriting
        if piece[0] == "{":
            result += "\\frac" + piece
        elif len(piece) == 1:
            return text
        elif piece[1] == "{":
            result += "\\frac{" + piece[0] + "}" + piece[1:]
        else:
            result += "\\frac{" + piece[0] + "}{" + piece[1] + "}" + piece[2:]
        i += len(piece)
    return result


def slash(text: str) -> str:
    if text.count("/") != 1:
        return text
    above, below = text.split("/")
    for part in (above, below):
        try:
            if str(int(part)) != part:
                return text
        except ValueError:
            return text
    return "\\frac{" + above + "}{" + below + "}"


def same(first: str, second: str) -> bool:
    try:
        return rewrite(first) == rewrite(second)
    except NoRewriting:
        return first == second
