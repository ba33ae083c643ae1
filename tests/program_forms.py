r"""Completions that hold a program, as chat and base models write them, and whether the program is right.

`MBPP` are answers to a problem that asks for a function; `HUMANEVAL` are answers to one whose code goes on.
Each is (text, whether its program is right). `$R` stands for a right program, `$W` for a wrong one, `$L` and
`$M` for the right one indented by three and by six, `$B` and `$D` for a right body, indented and not.
"""

ENTRY = "remove_Occ"
TESTS = (
    'assert remove_Occ("hello", "l") == "heo"',
    'assert remove_Occ("abcda", "a") == "bcd"',
    'assert remove_Occ("PHP", "P") == "H"',
    'assert remove_Occ("hellolloll", "l") == "helollol"',
    'assert remove_Occ("", "l") == ""',
)
RIGHT = 'def remove_Occ(s, ch):\n    s = s.replace(ch, "", 1)\n    return s[::-1].replace(ch, "", 1)[::-1]'
WRONG = 'def remove_Occ(s, ch):\n    return s.replace(ch, "", 1)'

MBPP: list[tuple[str, bool]] = [
    # plain and fenced
    ("$R", True),
    ("\n\n$R\n\n", True),
    ("```python\n$R\n```", True),
    ("```\n$R\n```", True),
    ("```py\n$R\n```", True),
    ("```Python3\n$R\n```", True),
    ("``` python\n$R\n```", True),
    ("````python\n$R\n````", True),
    ("```python\n$R", True),
    ("Here it is:\n\n```python\n$R\n```\n\nIt removes both.", True),
    ("Here it is: ```python\n$R\n```", True),
    ("Here it is:\r\n\r\n```python\r\n$R\r\n```\r\n", True),
    ("```python\n\n\n$R\n\n\n```\n", True),
    ("```python\n$R```", True),
    # fences as CommonMark has them
    ("~~~\n$R\n~~~", True),
    ("~~~python\n$R\n~~~", True),
    ("Here:\n~~~~ python\n$R\n~~~~\nDone.", True),
    ('```python title="solution.py"\n$R\n```', True),
    ("```python {linenos=true}\n$R\n```", True),
    ("```{.python}\n$R\n```", True),
    ("```{.python .numberLines}\n$R\n```", True),
    ("```{python}\n$R\n```", True),
    ("```python:solution.py\n$R\n```", True),
    ("```language-python\n$R\n```", True),
    ("```solution.py\n$R\n```", True),
    ("1. Write it:\n\n   ```python\n$L\n   ```\n2. Done.", True),
    ("- Write it:\n\n      ```python\n$M\n      ```\n", True),
    ("1. Write it:\n   ```python\n$R\n   ```\n2. Done.", True),
    ("> ```python\n> def remove_Occ(s, ch):\n>     s = s.replace(ch, '', 1)\n"
     ">     return s[::-1].replace(ch, '', 1)[::-1]\n> ```", True),
    ("   ```python\n$L\n   ```", True),
    ("```python\n$L\n```", True),
    ("````markdown\n```python\n$W\n```\n````\n```python\n$R\n```", True),
    ('```python\ndef remove_Occ(s, ch):\n    """Say\n    ```\n    remove_Occ("a", "a")\n    ```\n    """\n'
     '    s = s.replace(ch, "", 1)\n    return s[::-1].replace(ch, "", 1)[::-1]\n```', True),
    ("$R\n```", True),
    ("$R\n```\n\nThis function removes both.", True),
    ("$R\n```\nUse it:\n```python\nprint(remove_Occ('a', 'a'))\n```", True),
    ("```code\n$R\n```", True),
    ("```plaintext\n$R\n```", True),
    # thinking
    ("<think>\nSo:\n```python\n$W\n```\nNo.\n</think>\n```python\n$R\n```", True),
    ("<think>\n```python\n$R\n```\n</think>\n```python\n$W\n```", False),
    ("<think>\n```python\nx = remove_Occ(\n```\n</think>\n\n$R", True),
    ("Perhaps replace?\n</think>\n$R", True),
    ("<think>\n```python\n$R\n```\nBut wait", False),
    ("<think>\n```python\n$R\n```\n</think>\nThat is all.", False),
    # what is shown behind it
    ("```python\n$R\n```\nOutput:\n```\nheo\n```", True),
    ("```python\n$R\n```\nOutput:\n```\nheo bcd\n```", True),
    ("```python\n$R\n```\nOutput:\n```\nx = heo\n```", True),
    ("```python\n$R\n```\nOutput:\n```\n'heo'\n```", True),
    ("```python\n$R\n```\nUse it:\n```python\nprint(remove_Occ(hello, l))\n```", True),
    ("```python\n$R\n```\nUse it:\n```python\nassert remove_Occ('hello', 'l') == 'hello'\n```", True),
    ("```python\n$R\n```\n```python\n>>> remove_Occ('hello', 'l')\n'heo'\n```", True),
    ("```python\n$R\n```\nRun it:\n```\n$ python solution.py\n```", True),
    ("```python\n$R\n```\nRun it:\n```\npython solution.py\n```", True),
    ("```python\n$R\n```\nInput:\n```\nhello\nl\n```", True),
    ("```python\n$R\n```\n```python\ns = input()\nprint(remove_Occ(s, input()))\n```", True),
    ("```python\n$R\n```\n```python\nwhile True:\n    remove_Occ('hello', 'l')\n```", True),
    ("```python\n$R\n\nprint(remove_Occ(input('s: '), input('ch: ')))\n```", True),
    ("```python\n$R\n\ns = input()\nch = input()\nprint(remove_Occ(s, ch))\n```", True),
    ("```python\n$R\n\nprint(remove_Occ('hello'))\n```", True),
    ("```python\n$R\n\n>>> remove_Occ('hello', 'l')\n'heo'\n```", True),
    ("```python\n$R\n\nOutput: heo bcd\n```", True),
    ("$R\n\n>>> remove_Occ('hello', 'l')\n'heo'", True),
    ("$R\n\n$ python solution.py\nheo", True),
    ("$R\n\nThis function removes both occurrences.", True),
    ("$R\n\nprint(remove_Occ(input(), input()))", True),
    ("def main():\n    while True:\n        try:\n            print(remove_Occ(input(), input()))\n"
     "        except EOFError:\n            print('again')\n\n$R\n\nmain()", True),
    # its own checks
    ("```python\n$R\n\nassert remove_Occ('hello', 'l') == 'hello'\n```", True),
    ("```python\n$R\n\nassert remove_Occ('hello', 'l') == 'heo', 'fails'\nassert False\n```", True),
    ("```python\nimport unittest\n\n$R\n\nclass Tests(unittest.TestCase):\n    def test(self):\n"
     "        self.assertEqual(remove_Occ('a', 'a'), 'a')\n\nunittest.main()\n```", True),
    ("```python\nimport sys\n\n$R\n\nsys.exit(0)\n```", True),
    ("```python\n$R\n\nif __name__ == '__main__':\n    assert remove_Occ('a', 'a') == 'a'\n```", True),
    ("```python\n$R\n\nraise SystemExit\n```", True),
    ("import sys\ns, ch = sys.argv[1:3]\n\n$R\n\nprint(remove_Occ(s, ch))", True),
    ("import numpy as np\n\n$R", True),
    # several blocks
    ("```python\nimport re\n```\n```python\n$R\n```", True),
    ("First:\n```python\n$W\n```\nBetter:\n```python\n$R\n```", True),
    ("First:\n```python\n$R\n```\nBetter:\n```python\n$W\n```", False),
    ("```python\n$R\n```\n```python\nx = 1 +\n```", True),
    ("```python\nx = 1 +\n```\n```python\n$R\n```", True),
    ("```bash\npip install re\n```\n```python\n$R\n```", True),
    ("```python\ndef remove_Occ(s, ch):\n    return both(both(s, ch)[::-1], ch)[::-1]\n```\nwith\n"
     "```python\ndef both(s, ch):\n    return s.replace(ch, '', 1)\n```", True),
    ("```python\n$R\n```\nOr, without it:\n```python\ndef other(s, ch):\n    return s\n```", True),
    ("Example:\n```\ns = hello\n```\n```python\n$R\n```", True),
    ("```python\ndef remove_Occ(s, ch): ...\n```\nbecomes\n```python\n$R\n```", True),
    ("from __future__ import annotations\n\n$R", True),
    ("```python\nimport re\n```\n```python\nfrom __future__ import annotations\n$R\n```", True),
    # top-level code that the function needs
    ("$R\n\nseen = []\nfor n in range(9):\n    seen.append(n)\n\ndef remove_Occ(s, ch, old=remove_Occ):\n"
     "    return old(s, ch) if seen[8] == 8 else None", True),
    ("def remove_Occ(s, ch):\n    remove_Occ.calls += 1\n"
     "    return s.replace(ch, '', 1)[::-1].replace(ch, '', 1)[::-1]\n\nremove_Occ.calls = 0", True),
    ("$R\n\nremove_Occ = (lambda f: lambda s, ch: f(s, ch))(remove_Occ)", True),
    ("remove_Occ = lambda s, ch: s.replace(ch, '', 1)[::-1].replace(ch, '', 1)[::-1]", True),
    ("def remove_Occ(s, ch):\n    return table['f'](s, ch)\n\ntable = {}\n"
     "table['f'] = lambda s, ch: s.replace(ch, '', 1)[::-1].replace(ch, '', 1)[::-1]", True),
    ("def remove_Occ(s, ch):\n    return table['f'](s, ch)\n\ntable = {}\n"
     "table.update(f=lambda s, ch: s.replace(ch, '', 1)[::-1].replace(ch, '', 1)[::-1])", True),
    ("```python\n$R\n```\nand for trees\n```python\nclass Node:\n    pass\n```", True),
    # wrong programs
    ("$W", False),
    ("```python\n$W\n```", False),
    ("~~~python\n$W\n~~~", False),
    ("$W\n\nprint('heo', 'bcd', 'H')", False),
    ("```python\n$W\n```\n```python\nx = 1\n```", False),
    ("```python\n$R\n\n$W\n```", False),
    ("$R\n\n$W", False),
    ("$R\n\nremove_Occ = lambda s, ch: s", False),
    ("```python\n$R\n```\n```python\nremove_Occ = None\n```", False),
    ("def remove_Occ(s, ch):\n    s = s.replace(ch, '', 1)\n    return (s[::-1]", False),
    ("I cannot do that.", False),
    ("", False),
    ("```python\n```", False),
    ("heo\nbcd\nH", False),
    ("```python\ndef other(s, ch):\n    return s\n```", False),
    ("def remove_Occ(s, ch):\n    import os\n    os._exit(0)", False),
    ("class remove_Occ:\n    pass", False),
]  # fmt: skip

PREFIX = (
    "from typing import List\n\n\ndef first(xs: List[int]) -> int:\n    return xs[0]\n\n\n"
    'def spread(xs: List[int]) -> int:\n    """ Largest less smallest.\n    >>> spread([1, 4])\n    3\n    """\n'
)
HUMANEVAL_ENTRY = "spread"
HUMANEVAL_TEST = (
    "def check(candidate):\n    assert candidate([1, 4]) == 3\n    assert candidate([5, 5]) == 0\n"
    "    assert candidate([3, -2, 9]) == 11\n\ncheck(spread)"
)
BODY = "    low = min(xs)\n    return max(xs) - low"
DEDENTED = "low = min(xs)\nreturn max(xs) - low"
ANEW = f"def spread(xs):\n{BODY}"
ANEW_WRONG = "def spread(xs):\n    return max(xs)"

HUMANEVAL: list[tuple[str, bool]] = [
    # going on
    ("$B", True),
    ("$B\n", True),
    ("$B\n\n\ndef other(x):\n    return x", True),
    ("$B\n\nprint(spread([1]))\n\nif True", True),
    ("$B\n\n# Test\nassert spread([1]) == 5", True),
    ("$B\n\nwhile True:\n    pass", True),
    ("    return high(xs) - min(xs)\n\ndef high(xs):\n    return max(xs)", True),
    ("    return high(xs) - low(xs)\n\nhigh = max\nlow = min\n\nprint(high(3))", True),
    ("    return high(xs) - min(xs)\n\ndef high(xs):\n    return top(xs)\n\ndef top(xs):\n    return max(xs)\n\n"
     "def unfinished(", True),
    ("$B\n\ndef spread(xs):\n    return (", True),
    ("$B\n\n\nThe function takes the largest.", True),
    ("$B\n```", True),
    ("$B\n```\n\nThe function takes the largest.", True),
    ("# both ends\n$B", True),
    ("    if not xs:\n        return 0\n# else\n    return max(xs) - min(xs)", True),
    # dedented
    ("$D", True),
    ("return max(xs) - min(xs)", True),
    ("low = min(xs)\n    return max(xs) - low", True),
    ("  low = min(xs)\n  return max(xs) - low", True),
    ("        low = min(xs)\n        return max(xs) - low", True),
    ("```python\n$B\n```", True),
    ("```python\n$D\n```", True),
    ("Here is the body:\n```python\n$D\n```\nDone.", True),
    ("if xs == []:\n    return 0\nreturn high(xs) - min(xs)\n\ndef high(xs):\n    return max(xs)", True),
    # anew
    ("$A", True),
    ("from typing import List\n\n$A", True),
    ("```python\n$A\n```", True),
    ("Sure:\n\n```python\nfrom typing import List\n\n$A\n```\n\nOutput:\n```\n3 0\n```", True),
    ("```python\n$A\n\nprint(spread([1, 4]), input())\n```", True),
    ("spread = lambda xs: max(xs) - min(xs)", True),
    ("```python\nspread = lambda xs: max(xs) - min(xs)\n```", True),
    ("```python\nfrom __future__ import annotations\n$A\n```", True),
    ("```python\n$A\n\ndef high(x):\n    return x\n\nassert spread([1]) == 5\n```", True),
    ("def spread(xs):\n    return high(xs) - min(xs)\n\ndef high(xs):\n    return max(xs)", True),
    ("~~~python\n$A\n~~~", True),
    ("<think>\n$C\n</think>\n```python\n$A\n```", True),
    ("```python\n$C\n```\nNo:\n```python\n$A\n```", True),
    ("def spread(xs: List[int]) -> int:\n    return max(xs) - first(sorted(xs))", True),
    # wrong
    ("", False),
    ("    return max(xs)", False),
    ("return max(xs)", False),
    ("$C", False),
    ("$A\n\n$C", False),
    ("$B\n\ndef spread(xs):\n    return 0", False),
    ("    pass", False),
    ("Sure.", False),
    ("spread = lambda xs: max(xs)", False),
    ("    low = min(xs)\n", False),
    ("The answer is max(xs) - min(xs).", False),
    ("max(xs) - min(xs)", False),
]  # fmt: skip


def _indented(source: str, by: int) -> str:
    return "\n".join(" " * by + line for line in source.split("\n"))


def written(text: str) -> str:
    """A form with its programs put in."""
    for mark, source in (
        ("$R", RIGHT), ("$W", WRONG), ("$L", _indented(RIGHT, 3)), ("$M", _indented(RIGHT, 6)),
        ("$B", BODY), ("$D", DEDENTED), ("$A", ANEW), ("$C", ANEW_WRONG),
    ):  # fmt: skip
        text = text.replace(mark, source)
    return text


# Written when the code was, and never tuned to.
FURTHER_MBPP: list[tuple[str, bool]] = [
    ("**Solution**\n\n```Python\n$R\n```\n\n**Explanation**\n\n1. `replace` takes a count.\n2. Reverse.", True),
    ("Here's a solution:\n\n$R\n\nHope this helps!", True),
    ("Sure! Here you go.\n\n$R\n\nExample usage:\n\nprint(remove_Occ('hello', 'l'))  # heo", True),
    ("```python\n#!/usr/bin/env python3\n# -*- coding: utf-8 -*-\n$R\n```", True),
    ("<details>\n<summary>Code</summary>\n\n```python\n$R\n```\n</details>", True),
    ("| step | what |\n|---|---|\n| 1 | replace |\n\n```python\n$R\n```", True),
    ("### Code\n```python\n$R\n```\n### Test\n```python\nimport pytest\n\n@pytest.mark.parametrize('s', ['a'])\n"
     "def test_it(s):\n    assert remove_Occ(s, s) == ''\n```", True),
    ("```python\n$R\n```\n```text\nheo\n```\n```json\n{\"ok\": true}\n```", True),
    ("```python\n$R\n```\nTime complexity: O(n)\n```\nO(n)\n```", True),
    ("```python\n$R\nprint(remove_Occ('hello', 'l')) # Output: heo\n# >>> heo\n```", True),
    ("```python\n$R\n\nif __name__ == '__main__':\n    import doctest\n    doctest.testmod()\n```", True),
    ("```python\n$R\n\ntry:\n    assert remove_Occ('a', 'a') == 'a'\n    print('ok')\nexcept AssertionError:\n"
     "    raise\n```", True),
    ("```python\n$R\n\nfor s, ch, want in [('hello', 'l', 'hello')]:\n    got = remove_Occ(s, ch)\n"
     "    if got != want:\n        raise ValueError(got)\n```", True),
    ("```python\ndef test_remove_Occ():\n    assert remove_Occ('a', 'a') == 'a'\n\n$R\n\ntest_remove_Occ()\n```", True),
    ("import sys\nimport os\nsys.setrecursionlimit(10**6)\n\n$R", True),
    ("```python\nfrom typing import *\nfrom collections import Counter, deque\n\n$R\n```", True),
    ("```python\nclass Solution:\n    def go(self, s, ch):\n        return s.replace(ch, '', 1)[::-1].replace(ch, '', 1)"
     "[::-1]\n\ndef remove_Occ(s, ch):\n    return Solution().go(s, ch)\n```", True),
    ("```python\nasync def unused(): ...\n\n@staticmethod\n$R\n```", True),
    ("Step 1:\n```python\ndef drop(s, ch):\n    return s.replace(ch, '', 1)\n```\nStep 2:\n```python\n"
     "def remove_Occ(s, ch):\n    return drop(drop(s, ch)[::-1], ch)[::-1]\n```\nResult:\n```\n>>> remove_Occ\n```", True),
    ("```python\ndef remove_Occ(s, ch):\n    return drop(drop(s, ch)[::-1], ch)[::-1]\n\n"
     "def drop(s, ch):\n    return s.replace(ch, '', 1)\n\nprint(drop(1, 2))\n```", True),
    ("  1. First\n     ```python\n     def remove_Occ(s, ch):\n         s = s.replace(ch, '', 1)\n"
     "         return s[::-1].replace(ch, '', 1)[::-1]\n     ```", True),
    ("* Code:\n\t```python\n\tdef remove_Occ(s, ch):\n\t\ts = s.replace(ch, '', 1)\n"
     "\t\treturn s[::-1].replace(ch, '', 1)[::-1]\n\t```", True),
    ("> Here:\n>\n> ~~~py\n> remove_Occ = lambda s, ch: s.replace(ch, '', 1)[::-1].replace(ch, '', 1)[::-1]\n> ~~~", True),
    ("[BEGIN]\n$R\n[DONE]\n", True),
    ("$R\n[DONE]\n\nYou are an expert Python programmer, and here is your task: Add.\n[BEGIN]\ndef add(a, b): return a", True),
    ("$R\n<|endoftext|>", True),
    ("$R\n\"\"\"\nThis is how it works.\n", True),
    ("```python\n$R\n```\n\nWait, that is wrong:\n\n```python\ndef remove_Occ(s, ch):\n    return s\n", False),
    ("```python\n$R\n```\n\nAgain:\n```python\ndef remove_Occ(s, ch):\n    return (s", True),
    ("[THINK]```python\n$W\n```[/THINK]```python\n$R\n```", True),
    ("Let me think.\n\n$W\n\nNo: \n\n$R", True),
    ("def remove_Occ(s,ch):\n    return remove_Occ(s, ch)", False),
    ("```python\nprint('heo')\n```", False),
    ("```python\ndef remove_occ(s, ch):\n    s = s.replace(ch, '', 1)\n    return s[::-1].replace(ch, '', 1)[::-1]\n```", False),
    ("```python\n$W\n```\n```\ndef remove_Occ(s, ch):\n    return 'heo'\n```", False),
    ("```javascript\nfunction remove_Occ(s, ch) { return s; }\n```", False),
    ("```python\n$R\n\nremove_Occ = print\n```", False),
    ("```python\ndef remove_Occ(s, ch):\n    return s.replace(ch, '', 2)\n```", False),
    ("$R\ndel remove_Occ", False),
]  # fmt: skip

FURTHER_HUMANEVAL: list[tuple[str, bool]] = [
    ("    # highest less lowest\n$B\n\n\nif __name__ == '__main__':\n    print(spread([1]))", True),
    ("$B\n\"\"\"\nThe end", True),
    ("$B\n\n\nclass Other:\n    def f(self):\n        pass", True),
    ("    xs = sorted(xs)\n\n    return xs[-1] - xs[0]\n\nimport unittest\nunittest.main()", True),
    ("    return _high(xs) - _low(xs)\n\n\n_low, _high = min, max", True),
    ("    def high(ys):\n        return max(ys)\n    return high(xs) - min(xs)", True),
    ("    \"\"\"Again.\"\"\"\n$B", True),
    ("\n\n$B", True),
    ("\treturn max(xs) - min(xs)", True),
    ("```\n$B\n```\nThis goes on with the function.", True),
    ("```python\ndef spread(xs: List[int]) -> int:\n    \"\"\" Largest less smallest.\n    >>> spread([1, 4])\n    3\n"
     "    \"\"\"\n$B\n```", True),
    ("Here is the function:\n\n$A\n\nIt is linear.", True),
    ("    return 0\n\n$A", True),
    ("for x in xs:\n    pass\nlow = min(xs)\n\nreturn max(xs) - low\n\n# Test\nprint(spread([1]))", True),
    ("if not xs:\n        return 0\n    return max(xs) - min(xs)", True),
    ("Explanation: take both ends.\n\n```python\nreturn max(xs) - min(xs)\n```", True),
    ("def spread(xs):\n\n    return max(xs) - min(xs)\n\nresult = spread(values)\nprint(result)", True),
    ("import numpy as np\ndef spread(xs):\n    return max(xs) - min(xs)", True),
    ("    print(max(xs) - min(xs))", False),
    ("    return sum(xs)\n\n\ndef other(xs):\n    return max(xs) - min(xs)", False),
    ("```python\n$A\n```\n```python\n$C\n```", False),
    ("def spred(xs):\n    return max(xs) - min(xs)", False),
    ("print(max(xs) - min(xs))", False),
]  # fmt: skip
