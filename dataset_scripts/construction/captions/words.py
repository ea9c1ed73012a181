"""The vocabulary of captions, and patterns of what does not belong to one: talk, markup, refusals, placeholders.

All patterns expect text normalised by `folded`: lower case, plain apostrophes, single spaces. The lists are chosen,
and were tested on the captions of the drawn data set, on the shipped templates and on hand-written captions.
"""

import re
import unicodedata


_LAST_LATIN_LETTER = "\u024f"
_PLAIN = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "“": '"', "”": '"', "„": '"', "‐": "-", "‑": "-"})


def plain(text: str) -> str:
    """Normalise a text: plain apostrophes, quotes and hyphens, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).translate(_PLAIN).split())


def folded(text: str) -> str:
    """Normalise a text as `plain` does, in lower case.

    >>> folded("I’m  SORRY")
    "i'm sorry"
    """
    return plain(text).casefold()


def is_foreign_letter(character: str) -> bool:
    """Whether a character is a letter outside the Latin script, or the replacement for an undecodable byte."""
    return (character.isalpha() and character > _LAST_LATIN_LETTER) or character == "\N{REPLACEMENT CHARACTER}"


def any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns))


def word_set(*lists: str) -> frozenset[str]:
    return frozenset(word for words in lists for word in words.split())


MARKUP = any_of(
    # Addresses.
    r"https?:|\bwww\.|\b[\w-]+\.(?:com|net|org|io|cn|de|co|ru|info|html?|php|jpe?g|png)\b|\S@\w",
    # Code, JSON, Markdown, and the special tokens of chat formats.
    r"`|\*|~~|\\|==|=>|</|/>|<\||<!|<(?:s|p|br|b|i|div|span|html|think|img|image|a|li|ul)>|\|[a-z_]+\||\[/?inst\]",
    r"\{\s*[\"'{]|\"\s*:\s*[\"\[{\d]|(?:^|\s)#{1,6}\s|#[a-z]|\b\w+\(|&[a-z]+;|^[-•–>|]\s|^\d+[.)]\s|\bdef \w",
)
COMMAND = any_of(
    r"\b(?:system|assistant|user|human|developer|chatgpt|bot|ai|instructions?|prompt|caption|description|answer"
    r"|output|response|note|template|question|task)\s?(?:\d+\s?)?:",
    r"\b(?:ignore|disregard|forget|override|bypass)\b.{0,40}\b(?:instruction|prompt|rule|above|previous|prior"
    r"|everything|all)",
    r"\b(?:system|developer) (?:prompt|message)|\bjailbreak",
    r"\b(?:previous|prior|above|following|new|your|these|the) instructions?\b",
    r"\b(?:you|your|yours|yourself)\b",
    r"\b(?:as an? ai|ai model|language model|large language|chatbot|openai)\b",
)
"""Labels, instructions to a model, the second person, and a model that mentions itself."""
TALK = any_of(
    r"^(?:sure|certainly|of course|absolutely|okay|ok|great|understood|yes|no problem)\b",
    r"\bhere(?:'s| is| are)\b.{0,40}\b(?:caption|description|sentence|paragraph|text|version|response|answer)",
    r"\b(?:the|this|a|above|given|provided|following) (?:caption|template|placeholders?|prompt|request)\b",
    r"\b(?:based on|according to|as (?:seen|shown|described|requested|per)|provided|given|attached|from) (?:by "
    r"|in )?the (?:provided |given |attached )?(?:image|picture|photo|template|prompt|instructions?|request)\b",
    r"\bplease\b|\blet me\b|\bfeel free\b|\bhope (?:this|that|it)\b|\bwould like\b",
    r"\bi(?:'ve|'ll|'d)? (?:see|can|have|will|would|notice|observe|do|don't|hope|describe|followed|did|used|left)\b",
    r"\bword (?:limit|count)\b|\b\d+ words\b|\battached (?:image|picture|photo)\b|\b(?:the|given) structure\b",
    r"(?:^|[.!?] )(?:step|part|point|item|fact|result|image)(?: \d+)?:|\bwould you like\b|\bif (?:needed|you)\b",
    r"\bnote that\b|(?:^|[.!?] )(?:overall|in summary|in conclusion|to summari[sz]e|end of)\b|\bas instructed\b",
    r"\b(?:shop|tap|click|swipe|buy|order) (?:the|here|now|on|for|up)\b|\blink\b|(?:^|[.!?] )\d+[.)] [a-z]| [-•] \w+:",
)
"""Introductions and remarks around a caption."""
LABEL = re.compile(r"(?<![\w\"])[a-z][a-z -]{1,20}:(?= |$)")
"""A field of a list, such as "shoes: black". One may be a colon in a sentence, two are a list."""

REFUSAL = any_of(
    r"\bsorry\b|\bapologi[sz]e\b|\bapologies\b",
    r"\bi (?:cannot|can't|can ?not|could not|couldn't|won't|will not|must decline|do not feel|don't feel)\b",
    r"\b(?:i am|i'm|we are|am|was) (?:unable|not able|not allowed|not permitted|not comfortable|afraid)\b",
    r"\b(?:unable|cannot|can't|not able|not possible|decline|refuse) (?:to )?(?:assist|help|provide|describe|fulfil"
    r"|comply|generate|identify|create|write|process|view|see (?:any|the|an)|analy[sz]e|answer)",
    r"\bi (?:don't|do not|didn't) (?:have|see|know|find|feel)\b|\bas an? (?:ai|language|text)\b",
    r"\bno (?:image|picture|photo|photograph|person|people|human|man|woman|individual|one|pedestrian)s? (?:(?:is|are"
    r"|was|were|can be|could be|to be) )?(?:\w+ )?(?:provided|attached|visible|present|seen|found|shown|given"
    r"|available|in (?:the|this))\b",
    r"\bthere (?:is|are|was) no (?:image|picture|photo|photograph|person|people|human|man|woman|individual|one)s?\b",
    r"\b(?:image|picture|photo|photograph) (?:does not|doesn't|did not|didn't|is not|isn't|was not|wasn't|could not"
    r"|failed)",
    r"\b(?:provide|upload|attach|share|send) (?:me )?(?:the|an|a|another|more) (?:\w+ )?(?:image|picture|photo"
    r"|photograph|context|information|details?)\b",
    r"\bagainst (?:my|the) (?:guidelines|policy|policies|rules|programming)\b|\bcontent policy\b|\bmy guidelines\b",
)

_ARTICLE = r"(?:a|an|the|(?<!of )his|their|its)"
GARBLED = any_of(
    # An article without a noun: "wears a and blue jeans".
    rf"(?<!letter )(?<!letters )\b{_ARTICLE}(?: ?[.,;:!?]| (?:{_ARTICLE}|her|and|or|but|is|are|was|were|has|have|wears"
    r"|wearing|with|of|in|on|at|to|from|for|by|while|who|which|he|she)\b(?!-))",
    r"\bwith (?:and|of)\b(?! without|-)|\bof (?:and|or|is|are|was|has|have|wears|of|he|she)\b(?!-)|\bof ?[.,;]",
    r"\b(?:and|or) ?(?:[.;]| (?:and|or|of)\b)|\b(?:is|are) (?:is|are|wears)\b",
    r"\b(with|in|on|at|to|of|and|is|are|has|her|he|she|wears|wearing) \1\b(?!-)",
    r"[,;] ?[,;.]|\( ?\)",
)
"""Word pairs that no English sentence has: a placeholder was removed without repairing the sentence."""

PLACEHOLDER = any_of(
    r"[\[\]{}]|<[^<>]*>|_{2,}|\bx{3,}\b|\.{4,}",
    # Placeholders without their brackets.
    r"\b(?:an?|the|in|with|wears|wearing|and|his|her|of|has) colou?red (?:top|bottom|bottoms|shoes|bag|outerwear"
    r"|headwear|inner top|dress|shirt|pants|trousers|jacket|coat|socks|skirt|belt|scarf|accessory|accessories"
    r"|suitcase)\b",
    r"\b(?:the|a|this|an) (?:age group|gender(?! of)|hair style and color|bag position|sleeve length|held object"
    r"|body build)\b",
)

PERSON = word_set(
    "man men woman women person persons people boy boys girl girls lady ladies gentleman gentlemen guy guys male",
    "males female females pedestrian pedestrians individual individuals figure figures adult adults child children",
    "kid kids toddler toddlers baby teenager teenagers teen teens youth youths youngster senior seniors elder elders",
    "someone somebody he she him his her hers himself herself they them their passerby passer-by passersby walker",
    "shopper cyclist biker rider runner jogger worker student tourist traveler traveller officer policeman",
    "policewoman guard soldier chef cook waiter waitress nurse doctor player athlete model customer commuter hiker",
    "skater skateboarder mother father mom mum dad daughter son grandmother grandfather wearer human subject employee",
    "staff performer dancer singer businessman businesswoman bride groom firefighter farmer vendor photographer",
    "driver motorcyclist skier swimmer golfer schoolgirl schoolboy",
)
GARMENT = word_set(
    "shirt t-shirt tshirt tee top blouse sweater jumper pullover hoodie hoody sweatshirt jacket coat overcoat",
    "raincoat trench parka windbreaker blazer suit vest waistcoat gilet cardigan polo tank camisole tunic robe gown",
    "dress sundress frock skirt miniskirt trousers pants jeans denim slacks shorts leggings tights stockings joggers",
    "sweatpants chinos khakis cargos capris culottes overalls dungarees jumpsuit romper bodysuit leotard tracksuit",
    "sportswear uniform jersey outfit clothes clothing garment attire costume kimono sari saree hanbok cheongsam",
    "qipao abaya hijab burqa kilt apron poncho shawl cape cloak scarf shoe sneaker boot sandal slipper heel loafer",
    "trainer flats flip-flop sock hat cap beanie helmet headscarf tie necktie bow-tie glove mitten belt bikini",
    "swimsuit trunks swimwear pajamas pyjamas underwear bra lingerie anorak fleece outerwear bomber turtleneck",
    "button-down button-up t-shirts bottoms veil turban bandana windcheater shirtdress minidress corset crop-top",
    "singlet pinafore bathrobe jeggings footwear wear workwear sleeves collar garb apparel puffer peacoat tuxedo",
    "shirtwaist denims shirting scrubs cassock clog pump oxford brogue derby espadrille plimsoll slide stiletto wedge",
    "overshirt roll-neck polo-neck legwarmer sash earmuff knit tutu onesie dungaree legging pyjama pajama jogger",
    "half-zip crew-neck bodywarmer warmer knitwear overall moccasin galosh ushanka fedora beret visor balaclava",
)
CARRIED = word_set(
    "bag backpack rucksack knapsack handbag purse suitcase briefcase satchel tote clutch holdall pouch luggage wallet",
    "umbrella parasol phone smartphone laptop tablet camera box bottle bucket ball book newspaper magazine folder",
    "notebook clipboard tray basket crate towel mug cup drink coffee skateboard scooter bicycle bike motorcycle cane",
    "stick crutch pole stroller pram pushchair trolley cart case balloon bouquet toy teddy doll sword wand racket bat",
    "guitar board mat rope leash poster sign flag fan card badge lanyard glasses sunglasses goggles spectacles watch",
    "bracelet bangle necklace earring ring chain pendant brooch headphone headphones earphone earbud headset mask",
    "jewellery jewelry accessory ribbon headband hairband helmet pen key tool toolbox broom shopper seat carrier",
)
"""Things that are carried or worn besides clothes."""
COLOR = word_set(
    "black white grey gray red blue green yellow orange brown pink purple violet beige cream ivory tan khaki navy",
    "teal turquoise cyan maroon burgundy crimson scarlet gold golden silver bronze copper mint lilac lavender magenta",
    "charcoal mustard olive rose rust coral peach indigo cobalt aqua camel taupe ochre emerald sage wine plum",
    "chocolate champagne stone sand ecru",
)
ONE_PERSON = word_set(
    "man woman person boy girl lady gentleman guy male female pedestrian individual adult child kid toddler baby",
    "infant teenager teen youngster passerby passer-by cyclist biker rider runner jogger hiker skater skateboarder",
    "motorcyclist skier swimmer golfer schoolgirl schoolboy bride groom blonde brunette someone somebody",
)
PERSONS = word_set(
    "men women persons people boys girls ladies gentlemen guys males females pedestrians individuals adults children",
    "kids toddlers babies teenagers teens youngsters passersby cyclists bikers riders hikers skaters skateboarders",
    "motorcyclists skiers swimmers golfers schoolgirls schoolboys",
)
MALE = word_set("man men boy boys gentleman gentlemen guy guys male males groom schoolboy he him his himself")
FEMALE = word_set("woman women girl girls lady ladies female females bride schoolgirl she her hers herself")
RELATIVE = word_set(
    "partner opponent rival defender stranger neighbour neighbor wife husband spouse friend colleague coworker",
    "companion boyfriend girlfriend fiancé bridesmaid mother father mom mum mummy dad daddy parent daughter son",
    "sister brother sibling twin grandmother grandfather grandma grandpa grandson granddaughter grandchild aunt uncle",
    "teammate classmate bystander onlooker spectator",
)
"""Nouns that need a second person."""
ROLE = word_set(
    "doctor surgeon physician dentist nurse paramedic medic pharmacist scientist researcher professor teacher",
    "lecturer student pupil lawyer attorney judge solicitor politician president minister senator diplomat",
    "businessman businesswoman businessperson executive manager entrepreneur banker accountant secretary receptionist",
    "clerk engineer architect technician mechanic electrician plumber carpenter builder welder labourer laborer",
    "worker employee foreman farmer gardener fisherman firefighter fireman policeman policewoman officer cop",
    "detective sheriff bodyguard soldier sailor marine veteran pilot stewardess steward flight-attendant conductor",
    "driver courier postman mailman janitor cleaner maid butler waiter waitress barista bartender barman chef cook",
    "baker butcher cashier vendor salesman saleswoman shopkeeper hairdresser barber photographer cameraman journalist",
    "reporter presenter actor actress singer musician guitarist drummer rapper dancer ballerina performer entertainer",
    "comedian artist painter sculptor writer author designer influencer blogger model supermodel celebrity superstar",
    "athlete footballer player goalkeeper boxer wrestler gymnast golfer referee priest monk nun rabbi imam pope king",
    "queen prince princess gangster criminal thief prisoner beggar tourist traveller traveler commuter customer",
    "shopper protester activist",
)
"""What a person is, which their looks do not tell. The clothes may be named: "a police-style jacket"."""
ROLE_VERBS = word_set("models judges cooks pilots stewards kings queens")
"""Plurals that are mostly something else: "she models a dress"."""
ANOTHER = word_set("a an another one some two three four five six several many other")
ARTICLES = word_set("a an the some two three several many")
SOMEBODY = word_set("someone somebody")
EQUATES = word_set("is was are as like than")
DETERMINERS = word_set(
    "a an the this that one another some two three four five six several many both other his her their"
)
MODIFIED = (
    GARMENT
    | CARRIED
    | COLOR
    | ONE_PERSON
    | PERSONS
    | ROLE
    | word_set(
        "style look cut fit print motif theme pattern shade tone hue color colour gear costume aeroplane airplane",
        "plane car train ship kit collar pocket badge logo",
    )
) - word_set("wear tie slide model")  # verbs, too: "the woman wears", "the man ties his shoe"
"""A noun before one of these is no head: "boy shorts", "doctor bag", "baby blue", "boy rider"."""
BODY = word_set(
    "head face hair forehead brow eye ear nose mouth lip chin cheek neck nape throat shoulder chest torso back waist",
    "hip stomach belly arm forearm elbow wrist hand finger thumb leg thigh knee shin calf calves ankle foot feet toe",
    "heel body beard ponytail braid bun fringe bangs blade side left right skin",
)
PART = word_set(
    "hem collar cuff front top bottom edge zip zipper button buttonhole lining sole seam tip neckline center centre",
    "middle end length angle strap handle loop lapel pocket sleeve buckle brim hood lace stripe base level knot clip",
    "line panel pleat slit opening layer fabric tongue toecap crown rim lens frame temple lobe crook bridge spine",
    "pace slant",
)
GROUND = word_set(
    "street road sidewalk pavement path track trail stair step floor ground bench chair stool crosswalk crossing",
    "grass lawn curb kerb lane way camera viewer lens distance",
)
"""Where a person walks, sits or looks: no scenery by itself."""
PLACE = word_set(
    "building skyscraper house apartment tree bush shrub wall fence gate sky mountain hill cliff slope valley forest",
    "woods meadow garden park playground beach shore sea ocean river lake pond waterfall desert city town village",
    "downtown alley alleyway shop store storefront supermarket boutique mall restaurant cafe café market office",
    "kitchen bedroom bathroom classroom gym library hospital museum airport church temple parking lobby corridor",
    "hallway car cars van truck taxi vehicle bus motorboat boat ship tram traffic table sofa couch armchair fireplace",
    "refrigerator fridge bookshelf bookshelves bookcase shelf shelves cabinet curtain window door doorway fountain",
    "billboard streetlight lamppost escalator elevator staircase skyline horizon snowflake raindrop puddle cloud",
    "sunlight rooftop balcony terrace courtyard stadium arena runway catwalk swing scenery audience",
)
"""Nouns of a place or of what stands there. Words that clothes have, too, such as "platform", stand in `faults`."""
TOY = word_set("toy model plush lego paper plastic matchbox miniature stuffed wooden")
OWN = GARMENT | CARRIED | COLOR | BODY | PART | GROUND | ONE_PERSON | PERSONS
"""What may follow a preposition of place without describing a scene: "under an open shirt", "at the ankles"."""
BESIDE = word_set(
    "beside behind beneath under underneath near inside outside at past through against overlooking among amid amidst",
    "amongst between along toward towards beyond opposite facing",
)
AROUND = word_set("in around to from parked visible stretching rising")
CARRIER = (
    GARMENT
    | CARRIED
    | word_set(
        "tattoo print back chest sleeve shoulder arm front pocket fabric man woman boy girl person male female adult",
        "she he",
    )
)
"""What can bear a picture or a text."""
_UP_TO_A_BOUNDARY = (
    r"[^.,;:]*?(?=[.,;:]|$| and (?:he|she|it|wears?|wearing|has|holds?|carries|is|a pair)\b| along with\b)"
)
_DEPICTION = (
    r"(?:print|picture|image|photo|photograph|drawing|cartoon|portrait|painting|illustration|graphic|pattern|motif"
    r"|design|silhouette|statue|scene|sticker|patch|patche|tattoo|emblem|embroidery|badge|face|outline|map)"
)
_SHOWN = (
    # "a picture of a dog", "a knitted scene of skiers", "a cartoon of a man in a top hat"
    rf"(?P<keeps>)\b{_DEPICTION}s? (?:of|showing|with|depicting|featuring){_UP_TO_A_BOUNDARY}",
    # "printed with two dancers", "her sweater shows a mountain"
    rf"(?P<keeps>\b(?:printed|embroidered|decorated|patterned|painted|emblazoned|themed) with){_UP_TO_A_BOUNDARY}",
    rf"(?P<keeps>\b(?:shirt|t-shirt|tee|sweater|jumper|sweatshirt|hoodie|jacket|top|tie|dress|bag|it|back|which"
    rf"|that) (?:shows|depicts|displays|features|bears|pictures))\b{_UP_TO_A_BOUNDARY}",
    # "on which two musicians are drawn"
    r"(?P<keeps>\bon which) [^.,;:]*? (?:is|are) (?:drawn|printed|shown|depicted|painted|embroidered|written)\b",
    # "with a band on it", "with hula dancers all over it", but not "with a baby on the back"
    r"(?P<keeps>\bwith)(?: (?!baby|child|toddler|infant|his|her)[^\s.,;:]+){1,12}? (?:all over (?:it|them)|on (?:it"
    r"|them)|across it|(?:on|across|over) (?:the|its) (?:front|back|chest|sleeves?|side))\b",
    # "white dots on a blue background"
    r"(?P<keeps>\b(?:dot|stripe|flower|print|pattern|letter|lettering|check|star|logo|spot|line|leave"
    r"|floral)s?) on an? (?:[\w-]+ ){0,2}background\b",
    # "that says FREE HUGS in white": capitals that follow are the text
    r"(?P<keeps>\b(?:says|reads|reading|saying|spelling|stating|words?|text|slogan|lettering|letters|name|logo of"
    r"|logo))(?-i:(?: [A-Z0-9][^\s.,;:]*)+)",
)
DEPICTIONS = tuple(re.compile(pattern, re.IGNORECASE) for pattern in _SHOWN)
"""What is printed, drawn or written on a thing: masked before a caption is judged."""
FUNCTION = word_set(
    "a an the and or with of in on at to from by for over under is are was has have had be being wears wearing his",
    "her he she it its this that who which they their while as up down one both out no not around into near behind",
)
"""The most common words of English descriptions: about a quarter of the words or more."""

SCENERY = word_set(
    "street road sidewalk pavement building tree car wall background backdrop sky scene park store shop window bench",
    "grass fence vehicle bus train station crosswalk river sea beach mountain field lawn room floor ceiling door",
    "stair crowd corridor hallway plaza square bridge traffic sign lamp pole flower bush environment setting",
    "surrounding weather house city cloud water table chair furniture light shadow",
)
