"""Functions that the scaffold can write into a library: real ones, so that they are checked like all our code.

Their source is copied into generated projects, so each stands for itself: it uses the standard library, and none of
the others. No line is longer than theirs may be.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date


def slugify(text: str) -> str:
    """Return the text as lower-case ASCII words with hyphens between them, for file names and URLs."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss")).encode("ascii", "ignore")
    return "-".join(re.findall(r"[a-z0-9]+", plain.decode().lower()))


def word_count(text: str) -> int:
    """Return how many words a text has; white space parts them."""
    return len(text.split())


def word_frequencies(text: str) -> dict[str, int]:
    """Return how often each word occurs, in lower case and without punctuation, the most frequent first."""
    return dict(Counter(re.findall(r"\w+", text.lower())).most_common())


def truncate(text: str, length: int, ending: str = "…") -> str:
    """Return the text if it is not longer than `length`, else its beginning and the ending, that long in all."""
    if length < len(ending):
        raise ValueError(f"length must be at least {len(ending)}")
    return text if len(text) <= length else text[: length - len(ending)] + ending


def reverse_text(text: str) -> str:
    """Return the text backwards."""
    return text[::-1]


def is_palindrome(text: str) -> bool:
    """Whether the text reads the same backwards; case, spaces and punctuation do not count."""
    letters = [char for char in text.casefold() if char.isalnum()]
    return letters == letters[::-1]


def is_anagram(first: str, second: str) -> bool:
    """Whether both texts have the same letters, each as often; case and spaces do not count."""
    letters = [Counter("".join(text.casefold().split())) for text in (first, second)]
    return letters[0] == letters[1]


def camel_to_snake(name: str) -> str:
    """Return a CamelCase name as snake_case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def snake_to_camel(name: str) -> str:
    """Return a snake_case name as CamelCase."""
    return "".join(part.capitalize() for part in name.split("_"))


def normalize_whitespace(text: str) -> str:
    """Return the text with single spaces between its words, and none around it."""
    return " ".join(text.split())


def count_vowels(text: str) -> int:
    """Return how many of the letters a, e, i, o and u a text has, in either case."""
    return sum(char in "aeiou" for char in text.lower())


def levenshtein(first: str, second: str) -> int:
    """Return how many letters must be put in, taken out or replaced to turn one text into the other."""
    row = list(range(len(second) + 1))
    for i, char in enumerate(first, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(second, 1):
            cost = previous + (char != other)
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, cost)
    return row[-1]


def caesar_cipher(text: str, shift: int) -> str:
    """Return the text with every ASCII letter moved that far along the alphabet; a negative shift undoes it."""
    moved = []
    for char in text:
        base = ord("A") if char.isupper() else ord("a")
        is_letter = char.isascii() and char.isalpha()
        moved.append(chr((ord(char) - base + shift) % 26 + base) if is_letter else char)
    return "".join(moved)


def add(first: float, second: float) -> float:
    """Return the sum of two numbers."""
    return first + second


def subtract(first: float, second: float) -> float:
    """Return the first number less the second."""
    return first - second


def multiply(first: float, second: float) -> float:
    """Return the product of two numbers."""
    return first * second


def divide(first: float, second: float) -> float:
    """Return the first number by the second; ZeroDivisionError where that is 0."""
    return first / second


def power(base: float, exponent: int) -> float:
    """Return the base to the power of the exponent."""
    return float(base**exponent)


def factorial(n: int) -> int:
    """Return the product of the whole numbers from 1 to n; ValueError for a negative n."""
    return math.factorial(n)


def fibonacci(n: int) -> int:
    """Return the n-th Fibonacci number: 0 for 0, 1 for 1, and so on; ValueError for a negative n."""
    if n < 0:
        raise ValueError("n must not be negative")
    first, second = 0, 1
    for _ in range(n):
        first, second = second, first + second
    return first


def is_prime(n: int) -> bool:
    """Whether n is a prime number."""
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def primes_up_to(limit: int) -> list[int]:
    """Return the prime numbers up to the limit, with it."""
    sieve = [True] * (limit + 1)
    for n in range(2, math.isqrt(max(limit, 0)) + 1):
        if sieve[n]:
            sieve[n * n :: n] = [False] * len(sieve[n * n :: n])
    return [n for n in range(2, limit + 1) if sieve[n]]


def greatest_common_divisor(first: int, second: int) -> int:
    """Return the largest number that divides both."""
    return math.gcd(first, second)


def least_common_multiple(first: int, second: int) -> int:
    """Return the smallest positive number that both divide; 0 where one of them is 0."""
    return math.lcm(first, second)


def clamp(value: float, low: float, high: float) -> float:
    """Return the value, or the bound that it is beyond."""
    if low > high:
        raise ValueError("low must not be above high")
    return max(low, min(value, high))


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean; ValueError where there are no values."""
    if not values:
        raise ValueError("there are no values")
    return math.fsum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle; ValueError where there are none."""
    if not values:
        raise ValueError("there are no values")
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def variance(values: Sequence[float]) -> float:
    """Return the mean of the squared distances from the mean; ValueError where there are no values."""
    if not values:
        raise ValueError("there are no values")
    middle = math.fsum(values) / len(values)
    return math.fsum((value - middle) ** 2 for value in values) / len(values)


def standard_deviation(values: Sequence[float]) -> float:
    """Return the root of the mean squared distance from the mean; ValueError where there are no values."""
    if not values:
        raise ValueError("there are no values")
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / len(values))


def celsius_to_fahrenheit(degrees: float) -> float:
    """Return a temperature in °F that is given in °C."""
    return degrees * 9 / 5 + 32


def fahrenheit_to_celsius(degrees: float) -> float:
    """Return a temperature in °C that is given in °F."""
    return (degrees - 32) * 5 / 9


def celsius_to_kelvin(degrees: float) -> float:
    """Return a temperature in K that is given in °C."""
    return degrees + 273.15


def kelvin_to_celsius(kelvin: float) -> float:
    """Return a temperature in °C that is given in K."""
    return kelvin - 273.15


def km_to_miles(kilometres: float) -> float:
    """Return a length in miles that is given in kilometres."""
    return kilometres / 1.609344


def miles_to_km(miles: float) -> float:
    """Return a length in kilometres that is given in miles."""
    return miles * 1.609344


def kg_to_pounds(kilograms: float) -> float:
    """Return a mass in pounds that is given in kilograms."""
    return kilograms / 0.45359237


def pounds_to_kg(pounds: float) -> float:
    """Return a mass in kilograms that is given in pounds."""
    return pounds * 0.45359237


def to_roman(number: int) -> str:
    """Return a number from 1 to 3999 as a Roman numeral."""
    if not 1 <= number <= 3999:
        raise ValueError("number must be from 1 to 3999")
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    signs = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")
    numeral = ""
    for value, sign in zip(values, signs, strict=True):
        count, number = divmod(number, value)
        numeral += sign * count
    return numeral


def from_roman(numeral: str) -> int:
    """Return the number that a Roman numeral stands for; ValueError where it is none."""
    form = r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})"
    if not numeral or not re.fullmatch(form, numeral.upper()):
        raise ValueError(f"{numeral!r} is no Roman numeral")
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    numbers = [values[sign] for sign in numeral.upper()]
    following = [*numbers[1:], 0]
    return sum(-n if n < after else n for n, after in zip(numbers, following, strict=True))


def chunk(items: Sequence[object], size: int) -> list[list[object]]:
    """Return the items in lists of that size; the last may be shorter."""
    if size < 1:
        raise ValueError("size must be at least 1")
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def flatten(nested: Iterable[Iterable[object]]) -> list[object]:
    """Return the items of all the inner iterables in one list."""
    return [item for inner in nested for item in inner]


def unique(items: Iterable[object]) -> list[object]:
    """Return the items in the order of their first occurrence, each once."""
    return list(dict.fromkeys(items))


def is_leap_year(year: int) -> bool:
    """Whether a year of the Gregorian calendar has a 29 February."""
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def days_between(first: str, second: str) -> int:
    """Return the days from one date to another, both as YYYY-MM-DD; negative where the second is earlier."""
    return (date.fromisoformat(second) - date.fromisoformat(first)).days


def fizzbuzz(n: int) -> str:
    """Return Fizz for a multiple of 3, Buzz for one of 5, FizzBuzz for one of both, else the number."""
    return ("Fizz" * (n % 3 == 0) + "Buzz" * (n % 5 == 0)) or str(n)


def is_valid_email(text: str) -> bool:
    """Whether a text has the form of an e-mail address; not whether there is one of that name."""
    return re.fullmatch(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+", text) is not None


def hex_to_rgb(color: str) -> tuple[int, int, int]:
    """Return red, green and blue, from 0 to 255, of a colour such as #ff8800."""
    if not re.fullmatch(r"#?[0-9a-fA-F]{6}", color):
        raise ValueError(f"{color!r} is no colour such as #ff8800")
    digits = color.removeprefix("#")
    return int(digits[:2], 16), int(digits[2:4], 16), int(digits[4:], 16)


def rgb_to_hex(red: int, green: int, blue: int) -> str:
    """Return a colour such as #ff8800 from red, green and blue, each from 0 to 255."""
    if not all(0 <= part <= 255 for part in (red, green, blue)):
        raise ValueError("red, green and blue must be from 0 to 255")
    return f"#{red:02x}{green:02x}{blue:02x}"


CASES: dict[str, tuple[tuple[str, str], ...]] = {
    "slugify": (('"Größe & Maß!"', '"grosse-mass"'), ('"Hello, World"', '"hello-world"')),
    "word_count": (('"one two  three"', "3"), ('""', "0")),
    "word_frequencies": (('"No, no, yes!"', '{"no": 2, "yes": 1}'),),
    "truncate": (('"a long text", 6', '"a lon…"'), ('"short", 10', '"short"')),
    "reverse_text": (('"abc"', '"cba"'), ('"äöü"', '"üöä"')),
    "is_palindrome": (('"A man, a plan, a canal: Panama"', "True"), ('"palindrome"', "False")),
    "is_anagram": (('"Listen", "Silent"', "True"), ('"one", "two"', "False")),
    "camel_to_snake": (('"CamelCaseName"', '"camel_case_name"'),),
    "snake_to_camel": (('"snake_case_name"', '"SnakeCaseName"'),),
    "normalize_whitespace": (('"  a \\t b\\n"', '"a b"'),),
    "count_vowels": (('"Education"', "5"), ('"xyz"', "0")),
    "levenshtein": (('"kitten", "sitting"', "3"), ('"", "abc"', "3")),
    "caesar_cipher": (('"Hello, xyz!", 3', '"Khoor, abc!"'), ('"Khoor", -3', '"Hello"')),
    "add": (("2, 3", "5"), ("-1, 1", "0")),
    "subtract": (("5, 3", "2"),),
    "multiply": (("4, 3", "12"),),
    "divide": (("9, 2", "4.5"),),
    "power": (("2, 10", "1024"),),
    "factorial": (("5", "120"), ("0", "1")),
    "fibonacci": (("10", "55"), ("0", "0")),
    "is_prime": (("97", "True"), ("1", "False"), ("91", "False")),
    "primes_up_to": (("20", "[2, 3, 5, 7, 11, 13, 17, 19]"), ("1", "[]")),
    "greatest_common_divisor": (("12, 18", "6"),),
    "least_common_multiple": (("4, 6", "12"),),
    "clamp": (("15, 0, 10", "10"), ("-5, 0, 10", "0"), ("5, 0, 10", "5")),
    "mean": (("[1, 2, 3, 4]", "2.5"),),
    "median": (("[5, 1, 3]", "3"), ("[4, 1, 3, 2]", "2.5")),
    "variance": (("[2, 4, 4, 4, 5, 5, 7, 9]", "4"),),
    "standard_deviation": (("[2, 4, 4, 4, 5, 5, 7, 9]", "2"),),
    "celsius_to_fahrenheit": (("100", "212"), ("-40", "-40")),
    "fahrenheit_to_celsius": (("212", "100"),),
    "celsius_to_kelvin": (("0", "273.15"),),
    "kelvin_to_celsius": (("273.15", "0"),),
    "km_to_miles": (("1.609344", "1"),),
    "miles_to_km": (("1", "1.609344"),),
    "kg_to_pounds": (("0.45359237", "1"),),
    "pounds_to_kg": (("1", "0.45359237"),),
    "to_roman": (("1994", '"MCMXCIV"'), ("4", '"IV"')),
    "from_roman": (('"MCMXCIV"', "1994"), ('"iv"', "4")),
    "chunk": (("[1, 2, 3, 4, 5], 2", "[[1, 2], [3, 4], [5]]"),),
    "flatten": (("[[1, 2], [3], []]", "[1, 2, 3]"),),
    "unique": (("[3, 1, 3, 2, 1]", "[3, 1, 2]"),),
    "is_leap_year": (("2024", "True"), ("1900", "False"), ("2000", "True")),
    "days_between": (('"2024-02-28", "2024-03-01"', "2"),),
    "fizzbuzz": (("15", '"FizzBuzz"'), ("9", '"Fizz"'), ("10", '"Buzz"'), ("7", '"7"')),
    "is_valid_email": (('"ada@example.com"', "True"), ('"ada@example"', "False")),
    "hex_to_rgb": (('"#ff8800"', "(255, 136, 0)"),),
    "rgb_to_hex": (("255, 136, 0", '"#ff8800"'),),
}
"""What the generated tests call each function with, and what comes back, both as Python."""

ALIASES: dict[str, str] = {
    "count_words": "word_count",
    "wordcount": "word_count",
    "slug": "slugify",
    "shorten": "truncate",
    "reverse": "reverse_text",
    "reverse_string": "reverse_text",
    "palindrome": "is_palindrome",
    "anagram": "is_anagram",
    "to_snake_case": "camel_to_snake",
    "to_camel_case": "snake_to_camel",
    "edit_distance": "levenshtein",
    "levenshtein_distance": "levenshtein",
    "caesar": "caesar_cipher",
    "prime": "is_prime",
    "gcd": "greatest_common_divisor",
    "lcm": "least_common_multiple",
    "average": "mean",
    "stddev": "standard_deviation",
    "stdev": "standard_deviation",
    "int_to_roman": "to_roman",
    "roman_to_int": "from_roman",
    "chunks": "chunk",
    "dedupe": "unique",
    "deduplicate": "unique",
    "leap_year": "is_leap_year",
    "fib": "fibonacci",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "validate_email": "is_valid_email",
    "word_frequency": "word_frequencies",
    "c_to_f": "celsius_to_fahrenheit",
    "f_to_c": "fahrenheit_to_celsius",
}
"""Other names of functions."""

TOPICS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        r"temperatur\w*|celsius|fahrenheit",
        ("celsius_to_fahrenheit", "fahrenheit_to_celsius", "celsius_to_kelvin", "kelvin_to_celsius"),
    ),
    (r"roman (?:numeral|number)s?|römische\w*", ("to_roman", "from_roman")),
    (r"units?|einheiten\w*|maßeinheit\w*", ("km_to_miles", "miles_to_km", "kg_to_pounds", "pounds_to_kg")),
    (r"prim(?:e numbers?|es?|zahl\w*)", ("is_prime", "primes_up_to")),
    (r"fibonacci\w*", ("fibonacci",)),
    (r"fakultät|factorials?", ("factorial",)),
    (r"palindrom\w*", ("is_palindrome",)),
    (r"anagram\w*", ("is_anagram",)),
    (r"slugs?", ("slugify",)),
    (
        r"calculat\w*|arithmeti\w*|taschenrechner\w*|rechner|grundrechen\w*",
        ("add", "subtract", "multiply", "divide"),
    ),
    (
        r"text[\s-]?(?:statistic|statistik|analys)\w*|word counts?|wörter\w*",
        ("word_count", "word_frequencies"),
    ),
    (
        r"statistic\w*|statistik\w*|averages?|mittelwert\w*|median",
        ("mean", "median", "variance", "standard_deviation"),
    ),
    (
        r"string\w*|text[\s-]?(?:util|helper|tool|function|werkzeug|funktion)\w*|zeichenkette\w*",
        ("slugify", "truncate", "reverse_text", "word_count", "normalize_whitespace"),
    ),
    (r"caesar|cipher|verschlüssel\w*", ("caesar_cipher",)),
    (r"levenshtein|edit distance", ("levenshtein",)),
    (r"colou?rs?|farb\w*", ("hex_to_rgb", "rgb_to_hex")),
    (r"leap years?|schaltjahr\w*|dates?|datum\w*|kalender\w*", ("is_leap_year", "days_between")),
    (r"fizz\s?buzz", ("fizzbuzz",)),
    (r"lists?|listen", ("chunk", "flatten", "unique")),
    (r"e-?mails?", ("is_valid_email",)),
)
"""Words of a description, and the functions that they speak of, in the order in which they are written."""
