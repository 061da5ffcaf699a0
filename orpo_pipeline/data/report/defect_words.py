"""Each defect in words for people who did not write the rules."""

from dataclasses import dataclass

from schemas.pairs import DefectCode, Severity

GROUPS = (
    *("Reading", "Structure", "Text", "Secrets", "Scores", "Tokens"),
    *("Forgotten", "Repetition", "Leakage"),
)
"""In the order in which a row meets them."""

SEVERITY_WORDS = {
    Severity.DROP: "left out",
    Severity.QUARANTINE: "set aside",
    Severity.REPAIR: "repaired",
    Severity.REPORT: "kept as it is",
}


@dataclass(frozen=True, slots=True)
class DefectWords:
    """What to call a defect, and why it matters in one sentence."""

    group: str
    title: str
    meaning: str


DEFECT_WORDS: dict[DefectCode, DefectWords] = {
    DefectCode.FORGOTTEN: DefectWords(
        "Forgotten",
        "Forgotten by request",
        "Somebody asked that this row is never used again.",
    ),
    DefectCode.BROKEN_ROW: DefectWords(
        "Reading",
        "Unreadable row",
        "The row is cut off or garbled, so nothing in it can be relied on.",
    ),
    DefectCode.MISSING_FIELD: DefectWords(
        "Reading",
        "Missing field",
        "The row lacks the prompt, the chosen or the rejected answer.",
    ),
    DefectCode.WRONG_TYPE: DefectWords(
        "Reading",
        "Wrong type of value",
        "A field holds something other than its format allows, such as a number for a text.",
    ),
    DefectCode.UNSUPPORTED_CONTENT: DefectWords(
        "Reading",
        "Content that cannot be trained on",
        "The row has images, tool calls or other content besides text, and leaving it out would "
        "change what the answers reply to.",
    ),
    DefectCode.PROMPTS_DIFFER: DefectWords(
        "Structure",
        "Answers to different prompts",
        "Chosen and rejected reply to different conversations, so they cannot be compared.",
    ),
    DefectCode.WRONG_ROLES: DefectWords(
        "Structure",
        "Turns out of order",
        "The conversation does not alternate between user and assistant, or does not end with the "
        "user.",
    ),
    DefectCode.ANSWER_NOT_ASSISTANT: DefectWords(
        "Structure",
        "Answer is not one assistant message",
        "An answer is missing, has several messages, or is written in another role.",
    ),
    DefectCode.EMPTY_TEXT: DefectWords(
        "Text",
        "Empty text",
        "A message shows nothing; an empty answer has no probability to learn from.",
    ),
    DefectCode.IDENTICAL_ANSWERS: DefectWords(
        "Text",
        "Both answers are the same",
        "Chosen and rejected differ in case, spacing or character forms at most: no preference.",
    ),
    DefectCode.DAMAGED_CHARACTERS: DefectWords(
        "Text",
        "Damaged characters",
        "The text holds lost bytes or invisible control characters that a model would learn.",
    ),
    DefectCode.CHARACTERS_REPAIRED: DefectWords(
        "Text",
        "Invisible characters removed",
        "Characters without meaning, such as zero-width runs, were taken out.",
    ),
    DefectCode.LEAKED_ROLE_MARKER: DefectWords(
        "Text",
        "Chosen answer plays the next turn",
        "It contains a marker such as \u201cHuman:\u201d, and would teach the model to talk to "
        "itself.",
    ),
    DefectCode.ANSWER_IS_PREFIX: DefectWords(
        "Text",
        "One answer begins the other",
        "One answer is the other one cut short; the preference may be about length alone.",
    ),
    DefectCode.SECRET: DefectWords(
        "Secrets",
        "Access key",
        "The row holds what looks like an access or private key, which a model may repeat.",
    ),
    DefectCode.SECRET_REDACTED: DefectWords(
        "Secrets",
        "Access key replaced",
        "What looked like an access key, token or private key was replaced, on both sides alike.",
    ),
    DefectCode.PERSONAL_DATA: DefectWords(
        "Secrets",
        "Personal data",
        "The row holds an e-mail address, a phone, card or bank account number.",
    ),
    DefectCode.PERSONAL_DATA_REDACTED: DefectWords(
        "Secrets",
        "Personal data replaced",
        "E-mail addresses, phone, card or bank account numbers were replaced, on both sides alike.",
    ),
    DefectCode.SCORE_TIE: DefectWords(
        "Scores",
        "Equal scores",
        "Both answers have the same score: the data does not say which is better.",
    ),
    DefectCode.SCORE_INVERTED: DefectWords(
        "Scores",
        "Rejected scores higher",
        "The scores contradict the labels; many such rows mean that the columns are swapped.",
    ),
    DefectCode.SMALL_SCORE_MARGIN: DefectWords(
        "Scores",
        "Scores close together",
        "The answers are nearly as good as each other, so the label is uncertain.",
    ),
    DefectCode.CONTROL_TOKEN: DefectWords(
        "Tokens",
        "Control token in the text",
        "The text spells a token that steers the model, such as the end of a turn.",
    ),
    DefectCode.CONTROL_TOKEN_NEUTRALISED: DefectWords(
        "Tokens",
        "Control token read as plain text",
        "The text spells a token that steers the model; it was tokenised as the letters it is.",
    ),
    DefectCode.PROMPT_NOT_PREFIX: DefectWords(
        "Tokens",
        "Prompt changes with the answer",
        "The chat template renders the prompt differently once an answer follows, so it is unclear "
        "where the answer begins.",
    ),
    DefectCode.BOUNDARY_KEPT: DefectWords(
        "Tokens",
        "Answer tokenised apart from its prompt",
        "Read together, the prompt's last and the answer's first letters would make one token.",
    ),
    DefectCode.UNFINISHED_TURN: DefectWords(
        "Tokens",
        "Answer without an end",
        "The answer's tokens lack the end of turn, and the model would not learn to stop.",
    ),
    DefectCode.REPEATED_BOS: DefectWords(
        "Tokens",
        "Two beginnings",
        "The token that begins a text occurs more than once.",
    ),
    DefectCode.PAD_IN_ANSWER: DefectWords(
        "Tokens",
        "Padding token in the answer",
        "The answer contains the token used for padding, which training would ignore or garble.",
    ),
    DefectCode.TOO_LONG: DefectWords(
        "Tokens",
        "Too long",
        "Prompt and answer together exceed max_length.",
    ),
    DefectCode.TRUNCATED: DefectWords(
        "Tokens",
        "Cut to fit",
        "Prompt and answer together exceeded max_length and were cut as configured.",
    ),
    DefectCode.NEAR_DUPLICATE: DefectWords(
        "Repetition",
        "Nearly the same as another row",
        "Prompt and answers share almost all of their words with another row, which stands for it.",
    ),
    DefectCode.CONTRADICTION: DefectWords(
        "Repetition",
        "Contradicts another row",
        "Other rows prefer the same answers the other way round, directly or in a circle.",
    ),
    DefectCode.OVERREPRESENTED_PROMPT: DefectWords(
        "Repetition",
        "Prompt has enough pairs",
        "The prompt already has as many pairs as one prompt may have.",
    ),
    DefectCode.EVAL_PROMPT_IN_TRAIN: DefectWords(
        "Leakage",
        "Prompt belongs to evaluation",
        "Training on a prompt of the evaluation set would make its result worthless.",
    ),
    DefectCode.HELD_OUT_BEFORE: DefectWords(
        "Leakage",
        "Prompt was held out before",
        "An earlier version of the data evaluates on this prompt, so it is never trained on.",
    ),
    DefectCode.BENCHMARK_PROMPT: DefectWords(
        "Leakage",
        "Benchmark prompt",
        "The row shares a long run of words with one of the benchmark prompts that were given.",
    ),
}
