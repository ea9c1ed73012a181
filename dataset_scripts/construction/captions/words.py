"""Word lists and patterns for the caption rules.

All patterns expect text normalised by `folded`: lower case, plain apostrophes, single spaces. The lists are chosen,
and were tested on the captions of the drawn data set, on the shipped templates and on hand-written captions.
"""

import re
import unicodedata


_LAST_LATIN_LETTER = "\u024f"
_PLAIN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "“": '"', "”": '"', "„": '"', "‐": "-", "‑": "-"})


def folded(text: str) -> str:
    """Normalise a text: lower case, plain apostrophes, quotes and hyphens, single spaces.

    >>> folded("I’m  SORRY")
    "i'm sorry"
    """
    return " ".join(unicodedata.normalize("NFKC", text).translate(_PLAIN).casefold().split())


def is_foreign_letter(character: str) -> bool:
    """Whether a character is a letter outside the Latin script, or the replacement for an undecodable byte."""
    return (character.isalpha() and character > _LAST_LATIN_LETTER) or character == "\N{REPLACEMENT CHARACTER}"


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


def _words(*lists: str) -> frozenset[str]:
    return frozenset(word for words in lists for word in words.split())


MARKUP = _any(
    # Addresses.
    r"https?:|\bwww\.|\b[\w-]+\.(?:com|net|org|io|cn|de|co|ru|info|html?|php|jpe?g|png)\b|\S@\w",
    # Code, JSON, Markdown, and the special tokens of chat formats.
    r"`|\*|~~|\\|==|=>|</|/>|<\||<!|<(?:s|p|br|b|i|div|span|html|think|img|image|a|li|ul)>|\|[a-z_]+\||\[/?inst\]",
    r"\{\s*[\"'{]|\"\s*:\s*[\"\[{\d]|(?:^|\s)#{1,6}\s|#[a-z]|\b\w+\(|&[a-z]+;|^[-•–>|]\s|^\d+[.)]\s|\bdef \w",
)
COMMAND = _any(
    r"\b(?:system|assistant|user|human|developer|chatgpt|bot|ai|instructions?|prompt|caption|description|answer|output"
    r"|response|note|template|question|task)\s?(?:\d+\s?)?:",
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|above|previous|prior"
    r"|everything|all)",
    r"\b(?:system|developer) (?:prompt|message)|\bjailbreak",
    r"\b(?:previous|prior|above|following|new|your|these|the) instructions?\b",
    r"\b(?:you|your|yours|yourself)\b",
    r"\b(?:as an? ai|ai model|language model|large language|chatbot|openai)\b",
)
"""Labels, instructions to a model, the second person, and a model that mentions itself."""
TALK = _any(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|great|understood|yes|no problem)\b",
    r"\bhere(?:'s| is| are)\b.{0,40}\b(?:caption|description|sentence|paragraph|text|version|response|answer)",
    r"\b(?:the|this|a|above|given|provided|following) (?:caption|template|placeholders?|prompt|request)\b",
    r"\b(?:based on|according to|as (?:seen|shown|described|requested|per)|provided|given|attached|from) (?:by |in )?"
    r"the (?:provided |given |attached )?(?:image|picture|photo|template|prompt|instructions?|request)\b",
    r"\bplease\b|\blet me\b|\bfeel free\b|\bhope (?:this|that|it)\b|\bwould like\b",
    r"\bi(?:'ve|'ll|'d)? (?:see|can|have|will|would|notice|observe|do|don't|hope|describe|followed|did|used|left)\b",
    r"\bword (?:limit|count)\b|\b\d+ words\b",
)
"""Introductions and remarks around a caption."""

REFUSAL = _any(
    r"\bsorry\b|\bapologi[sz]e\b|\bapologies\b",
    r"\bi (?:cannot|can't|can ?not|could not|couldn't|won't|will not|must decline|do not feel|don't feel)\b",
    r"\b(?:i am|i'm|we are|am|was) (?:unable|not able|not allowed|not permitted|not comfortable|afraid)\b",
    r"\b(?:unable|cannot|can't|not able|not possible|decline|refuse) (?:to )?(?:assist|help|provide|describe|fulfil"
    r"|comply|generate|identify|create|write|process|view|see (?:any|the|an)|analy[sz]e|answer)",
    r"\bi (?:don't|do not|didn't) (?:have|see|know|find|feel)\b|\bas an? (?:ai|language|text)\b",
    r"\bno (?:image|picture|photo|photograph|person|people|human|man|woman|individual|one|pedestrian)s? "
    r"(?:(?:is|are|was|were|can be|could be|to be) )?(?:\w+ )?(?:provided|attached|visible|present|seen|found|shown"
    r"|given|available|in (?:the|this))\b",
    r"\bthere (?:is|are|was) no (?:image|picture|photo|photograph|person|people|human|man|woman|individual|one)s?\b",
    r"\b(?:image|picture|photo|photograph) (?:does not|doesn't|did not|didn't|is not|isn't|was not|wasn't"
    r"|could not|failed)",
    r"\b(?:provide|upload|attach|share|send) (?:me )?(?:the|an|a|another|more) (?:\w+ )?"
    r"(?:image|picture|photo|photograph|context|information|details?)\b",
    r"\bagainst (?:my|the) (?:guidelines|policy|policies|rules|programming)\b|\bcontent policy\b|\bmy guidelines\b",
)

_ARTICLE = r"(?:a|an|the|(?<!of )his|their|its)"
GARBLED = _any(
    # An article without a noun: "wears a and blue jeans".
    rf"(?<!letter )(?<!letters )\b{_ARTICLE}(?: ?[.,;:!?]| (?:{_ARTICLE}|her|and|or|but|is|are|was|were|has|have|wears"
    r"|wearing|with|of|in|on|at|to|from|for|by|while|who|which|he|she)\b(?!-))",
    r"\bwith (?:and|of)\b(?! without|-)|\bof (?:and|or|is|are|was|has|have|wears|of|he|she)\b(?!-)|\bof ?[.,;]",
    r"\b(?:and|or) ?(?:[.;]| (?:and|or|of)\b)|\b(?:is|are) (?:is|are|wears)\b",
    r"\b(with|in|on|at|to|of|and|is|are|has|her|he|she|wears|wearing) \1\b(?!-)",
    r"[,;] ?[,;.]|\( ?\)",
)
"""Word pairs that no English sentence has: a placeholder was removed without repairing the sentence."""

_PLACE = (
    r"(?:on|in|at|along|across|under|underneath|beneath|below|above|near|over|beside|between|around|down|behind|from"
    r"|through|against|within|inside|next|twice|once|again|only|just|also|prominently|clearly|faintly|partly|partially"
    r"|to the|and)"
)
HEDGE = _any(
    r"\bseem(?:s|ed|ing|ingly)?\b",
    # "A logo appears on the shirt" is allowed, "appears to be a shirt" is not.
    rf"\bappear(?:s|ed|ing)?\b(?! {_PLACE}\b| ?[.,;])",
    r"\bapparent(?:ly)?\b",
    r"\blook(?:s|ed|ing)? (?:like|as (?:if|though)|to (?:be|have)\b)",
    r"\b(?:possibl[ey]|probabl[ey]|perhaps|maybe|presumabl[ey]|supposedly|potentially|likely|conceivably|arguably)\b",
    r"\b(?:could|might)\b|\bmay (?:also |not |well |either |or may not )*(?:be|have|indicate|suggest|contain|include"
    r"|show|wear|hold|carry|belong|represent)\b",
    r"\b(?:suggest|imply|hint|indicat)(?:s|ed|ing|e|es)?\b|\bimplie[sd]\b|\b(?:as if|as though)\b",
    r"\b(?:i|we) (?:think|believe|guess|assume|suppose)\b|\b(?:presum|assum)(?:e|ed|ing)\b|\bi'm not sure\b",
    r"\b(?:some|a|any) (?:kind|sort|type) of\b(?! (?:\w+ )?pattern)|\bsomething like\b",
    r"\bnot (?:entirely |completely |quite |fully )?(?:sure|certain)\b|\bhard to say\b|\bor something\b",
)

_PICTURE = r"(?:frame|view|shot|sight|picture|image|photo|photograph)"
UNSEEN = _any(
    r"(?:\bnot|n't|\bcannot) (?:be )?(?:\w+ly )?(?:visible|seen|shown|discernible|identifiable|distinguishable"
    r"|discerned|determined|identified|made out|specified|mentioned|provided|applicable|available|apparent|depicted"
    r"|clear)\b|\b(?:cannot|can't|can not) (?:\w+ )?(?:tell|see)\b",
    rf"\b(?:out of|out-of|outside|outside of|beyond|below|not in|hidden from|obscured from|off) (?:the )?{_PICTURE}\b",
    rf"\b(?:cropped|cut)(?: off| out)? (?:by|from|at|out of|in) (?:the )?(?:\w+ )?(?:edge|border|bottom"
    rf"|top|{_PICTURE})\b",
    r"\b(?:hard|difficult|impossible|too \w+(?: \w+)?) to (?:tell|see|make out|determine|discern|identify"
    r"|distinguish)\b",
    r"\b(?:unclear|unknown|invisible|unseen|unspecified|undetermined|indiscernible|indistinguishable|unidentifiable"
    r"|unidentified|undefined|indistinct|n/a)\b",
    rf"\b{_PICTURE} (?:is|was) (?:too|very|so|quite) (?:\w+ )?(?:blurry|blurred|dark|small|low|unclear"
    rf"|grainy|pixelated)\b",
    rf"\b(?:blurry|blurred|low[- ]quality|low[- ]resolution|low resolution|grainy|pixelated) {_PICTURE}\b",
)

PLACEHOLDER = _any(
    r"[\[\]{}]|<[^<>]*>|_{2,}|\bx{3,}\b|\.{4,}",
    # Placeholders without their brackets.
    r"\b(?:an?|the|in|with|wears|wearing|and|his|her|of|has) colou?red (?:top|bottom|bottoms|shoes|bag"
    r"|outerwear|headwear"
    r"|inner top|dress|shirt|pants|trousers|jacket|coat|socks|skirt|belt|scarf|accessory|accessories|suitcase)\b",
    r"\b(?:the|a|this|an) (?:age group|gender(?! of)|hair style and color|bag position|sleeve length|held object"
    r"|body build)\b",
)

PERSON = _words(
    "man men woman women person persons people boy boys girl girls lady ladies gentleman gentlemen guy guys male",
    "males female females pedestrian pedestrians individual individuals figure figures adult adults child children",
    "kid kids toddler toddlers baby teenager teenagers teen teens youth youths youngster senior seniors elder",
    "elders someone somebody he she him his her hers himself herself they them their passerby passer-by passersby",
    "walker shopper cyclist biker rider runner jogger worker student tourist traveler traveller officer policeman",
    "policewoman guard soldier chef cook waiter waitress nurse doctor player athlete model customer commuter hiker",
    "skater skateboarder mother father mom mum dad daughter son grandmother grandfather wearer human subject",
    "employee staff performer dancer singer businessman businesswoman bride groom firefighter farmer vendor",
    "photographer driver motorcyclist skier swimmer golfer schoolgirl schoolboy",
)
GARMENT = _words(
    "shirt t-shirt tshirt tee top blouse sweater jumper pullover hoodie hoody sweatshirt jacket coat overcoat",
    "raincoat trench parka windbreaker blazer suit vest waistcoat gilet cardigan polo tank camisole tunic robe gown",
    "dress sundress frock skirt miniskirt trousers pants jeans denim slacks shorts leggings tights stockings",
    "joggers sweatpants chinos khakis cargos capris culottes overalls dungarees jumpsuit romper bodysuit leotard",
    "tracksuit sportswear uniform jersey outfit clothes clothing garment attire costume kimono sari saree hanbok",
    "cheongsam qipao abaya hijab burqa kilt apron poncho shawl cape cloak scarf shoe sneaker boot sandal slipper",
    "heel loafer trainer flats flip-flop sock hat cap beanie helmet headscarf tie necktie bow-tie glove mitten belt",
    "bikini swimsuit trunks swimwear pajamas pyjamas underwear bra lingerie anorak fleece outerwear bomber",
    "turtleneck button-down button-up t-shirts bottoms veil turban bandana windcheater shirtdress minidress corset",
    "crop-top singlet pinafore bathrobe jeggings footwear wear workwear sleeves collar garb apparel puffer peacoat",
    "tuxedo shirtwaist denims shirting scrubs cassock",
)
FUNCTION = _words(
    "a an the and or with of in on at to from by for over under is are was has have had be being wears wearing his",
    "her he she it its this that who which they their while as up down one both out no not around into near behind",
)
"""The most common words of English descriptions: about a quarter of the words or more."""

SCENERY = _words(
    "street road sidewalk pavement building tree car wall background backdrop sky scene park store shop window",
    "bench grass fence vehicle bus train station crosswalk river sea beach mountain field lawn room floor ceiling",
    "door stair crowd corridor hallway plaza square bridge traffic sign lamp pole flower bush environment setting",
    "surrounding weather house city cloud water table chair furniture light shadow",
)
BACKGROUND = _any(
    # "Dots on a blue background" describes a shirt and is allowed.
    r"\bin the (?:\w+ ){0,2}background\b",
    r"\bthe background (?:is|shows|has|features|contains|consists|includes|of the (?:image|picture|photo))\b",
    r"(?:^|[.!?] )the (?:\w+ )?(?:background|backdrop|scene|setting|surroundings?|environment|atmosphere|lighting)\b",
)

_ADJECTIVES = r"(?:(?:young|old|older|elderly|adult|middle-aged|tall|short|slim|little|teenage|looking) )*"
_PERSONS = (
    r"(?:man|men|woman|women|person|people|boy|girl|lady|guy|gentleman|male|female|individual|child|pedestrian)s?\b"
)
_PEOPLES = (
    r"(?:asian|african|european|american|chinese|japanese|korean|indian|arab|arabic|arabian|thai|vietnamese|mexican"
    r"|middle[- ]eastern|western|eastern|black|white|brown|russian|turkish|french|german|british|spanish|italian"
    r"|jewish|muslim|hindu|christian|sikh|buddhist|catholic|islamic|gypsy|roma|romani|native|indigenous)"
)
_FAITHS = r"(?:muslim|islamic|hindu|sikh|buddhist|catholic|protestant|mormon)"
PROTECTED = _any(
    # Matches "a white man", but not "a white man's shirt", "a white male-cut shirt" or "a man in white".
    rf"\b{_PEOPLES}(?:[- ](?:american|looking|skinned))? {_ADJECTIVES}{_PERSONS}(?!'|-)",
    rf"\b{_PEOPLES} (?:descent|ethnicity|origin|heritage|ancestry|appearance|features|nationality)\b",
    r"\b(?:is|be|of|are) (?:an? )?(?:asian|african|african-american|indian|arab)(?=[.,;]| (?:and|with|in"
    r"|who|wearing)\b)",
    r"\b(?:caucasian|hispanic|latin[oax]|latinx|african[- ]american|ethnicity|ethnically|racial|racially|biracial"
    r"|mixed[- ]race|multiracial|negro|mestizo)s?\b|\b(?:person|people|man|woman|girl|boy) of colou?r\b",
    r"\b(?:dark|light|fair|pale|brown|black|white|olive|tan|tanned|darker|lighter)[- ]skin(?:ned)?\b(?!-| (?:bag|boots"
    r"|jacket|coat|leather|shoes|tight))|\bcomplexion\b|\bskin[- ](?:tone|colou?r)\b(?!ed)|\bskin is\b",
    # Garments such as a hijab or a turban may be named, the faith behind them may not.
    rf"\b{_FAITHS}\b(?! (?:print|style|pattern))|\b(?:jewish|christian)\b(?! (?:dior|louboutin|lacroix|siriano))",
    r"\b(?:religion|religious|religiously|faith|atheist|devout)\b",
    r"\b(?:pregnant|pregnancy|disabled|disability|handicapped|crippled|autistic|autism|obese|obesity|anorexic|diabetic"
    r"|mentally|illness|disease|diseased|wheelchair-bound|syndrome|addict|unhealthy|infected|depression)\b(?!-)",
    # "A patient gown" and "a sick green" are allowed.
    rf"\b(?:sick|ill|injured|blind|deaf|depressed) {_ADJECTIVES}{_PERSONS}|\bpatients?\b(?! (?:gown|robe|chart))",
    r"\b(?:is|looks|be|are) (?:sick|ill|injured|blind|deaf|depressed)\b(?!-)|\b(?:has|with|from) cancer\b",
    r"\b(?:gay|lesbian|homosexual|heterosexual|bisexual|transgender|transsexual|queer|non-binary|nonbinary|lgbtq?)\b",
    r"\b(?:immigrant|refugee|migrant|nationality|citizen|republican|democrat|communist|nazi)s?\b",
    r"\b(?:named|whose name|(?:his|her|their) name|identified as|known as|celebrity|nicknamed)\b",
)
