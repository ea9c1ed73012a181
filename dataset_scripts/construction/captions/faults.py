"""What a caption must not say about a person and a picture, by kind. Each pattern belongs to one reason in `rules`.

All patterns expect `Caption.content` or `Caption.said`: lower case, without quotations. To add a word, put it into the
list of its kind; the labelled captions of the tests show what it catches, and what it refuses by mistake.
"""

from .words import COLOR, GARMENT, any_of, word_set


_COLORS = "|".join(sorted(COLOR))
_GARMENTS = "|".join(sorted(GARMENT - {"wear"}))  # "wears" is a verb
_PLACE = (
    r"(?:on|in|at|along|across|under|underneath|beneath|below|above|near|over|beside|between|around|down|behind|from"
    r"|through|against|within|inside|next|twice|once|again|only|just|also|prominently|clearly|faintly|partly"
    r"|partially|to the|and)"
)
HEDGE = any_of(
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
    r"\b(?:almost certainly|certainly|surely|definitely|probable|plausibl[ey]|imagin(?:e|es|ed|ing)|believed|must be"
    r"|i guess|looks to be)\b",
    rf"\b(?:{_COLORS}) or (?:\w+ )?(?:{_COLORS})\b|\b(?:{_GARMENTS})s? or (?:an? )?(?:\w+ )?(?:{_GARMENTS})\b",
    r"\beither \w+(?: \w+)? or\b|\bor (?:rather|so|similar|maybe|perhaps)\b|\bof (?:some|a certain) (?:kind|sort"
    r"|type)\b",
    r"\b(?:kind|sort) of (?:like|a)\b|\bmore or less\b|\bunsure\b|\bambiguous\b|\bestimat\w+\b|\bin all likelihood\b"
    r"|\bone (?:would|can gather|gathers|assumes|imagines)\b|\bpass for\b|\bjudging (?:by|from)\b",
    r"\bnot (?:entirely |completely |quite |fully )?(?:sure|certain)\b|\bhard to say\b|\bor something\b",
)

_PICTURE = r"(?:frame|view|shot|sight|picture|image|photo|photograph)"
UNSEEN = any_of(
    r"\b(?:hides?|hiding|conceal\w*|obscur\w*|obstruct\w*|hidden(?! (?:pocket|zip|button|placket|closure|heel"
    r"|seam)))\b",
    r"\b(?:partially|partly|barely|hardly|scarcely|only just|half) (?:visible|seen|shown|in view)\b|\bfrom (?:sight"
    r"|view)\b",
    r"\bonly (?:the|his|her|their|one|part)\b[^.,;]* (?:is|are) (?:shown|visible|seen|in view)\b|\ba mystery\b",
    r"\b(?:cropped|cut) (?:out|off)\b|\b(?:covered|masked) by (?:a|the) (?:blur|bar|watermark|mosaic)\b|\bpixelated\b",
    r"\b(?:picture|image|photo|frame|shot|view) (?:ends|stops|cuts|is cut)\b",
    r"(?:\bnot|n't|\bcannot) (?:be )?(?:\w+ly )?(?:visible|seen|shown|discernible|identifiable|distinguishable"
    r"|discerned|determined|identified|made out|specified|mentioned|provided|applicable|available|apparent|depicted"
    r"|clear)\b|\b(?:cannot|can't|can not) (?:\w+ )?(?:tell|see)\b",
    rf"\b(?:out of|out-of|outside|outside of|beyond|below|not in|hidden from|obscured from|off) (?:the )?{_PICTURE}\b",
    rf"\b(?:cropped|cut)(?: off| out)? (?:by|from|at|out of|in) (?:the )?(?:\w+ )?(?:edge|border|bottom|top"
    rf"|{_PICTURE})\b",
    r"\b(?:hard|difficult|impossible|too \w+(?: \w+)?) to (?:tell|see|make out|determine|discern|identify"
    r"|distinguish)\b",
    r"\b(?:unclear|unknown|invisible|unseen|unspecified|undetermined|indiscernible|indistinguishable|unidentifiable"
    r"|unidentified|undefined|indistinct|n/a)\b",
    rf"\b{_PICTURE} (?:is|was) (?:too|very|so|quite) (?:\w+ )?(?:blurry|blurred|dark|small|low|unclear|grainy"
    rf"|pixelated)\b",
    rf"\b(?:blurry|blurred|low[- ]quality|low[- ]resolution|low resolution|grainy|pixelated) {_PICTURE}\b",
)

_ADJECTIVES = r"(?:(?:young|old|older|elderly|adult|middle-aged|tall|short|slim|little|teenage|looking) )*"
_PERSONS = (
    r"(?:man|men|woman|women|person|people|boy|girl|lady|guy|gentleman|male|female|individual|child|pedestrian|kid"
    r"|toddler|baby|teen|teenager|tourist|student|dancer|worker|officer|model|couple|beauty|bride|businessman)s?\b"
)
_PEOPLES = (
    r"(?:asian|african|european|american|chinese|japanese|korean|indian|arab|arabic|arabian|thai|vietnamese|mexican"
    r"|middle[- ]eastern|western|eastern|black|white|brown|russian|turkish|french|german|british|spanish|italian"
    r"|jewish|muslim|hindu|christian|sikh|buddhist|catholic|islamic|gypsy|roma|romani|native|indigenous|scandinavian"
    r"|nordic|slavic|mediterranean|hispanic|filipino|indonesian|malaysian|pakistani|bangladeshi|nepalese|iranian"
    r"|persian|iraqi|syrian|afghan|israeli|palestinian|egyptian|moroccan|nigerian|kenyan|ethiopian|somali|brazilian"
    r"|argentinian|colombian|cuban|canadian|australian|dutch|polish|greek|irish|scottish|swedish|norwegian|danish"
    r"|swiss|austrian|ukrainian|portuguese|taiwanese|mongolian|tibetan|polynesian|oriental|latin)"
)
_FAITHS = r"(?:muslim|islamic|hindu|sikh|buddhist|catholic|protestant|mormon)"
PROTECTED = any_of(
    # Matches "a white man", but not "a white man's shirt", "a white male-cut shirt" or "a man in white".
    rf"\b{_PEOPLES}(?:[- ](?:american|looking|skinned))? {_ADJECTIVES}{_PERSONS}(?!'|-| (?:{_GARMENTS})s?\b)",
    rf"\b{_PEOPLES} (?:descent|ethnicity|origin|heritage|ancestry|appearance|features|nationality)\b",
    r"\b(?:is|be|of|are) (?:an? )?(?:asian|african|african-american|indian|arab)(?=[.,;]| (?:and|with|in|who"
    r"|wearing)\b)",
    r"\b(?:caucasian|hispanic|latin[oax]|latinx|african[- ]american|ethnicity|ethnically|racial|racially|biracial"
    r"|mixed[- ]race|multiracial|negro|mestizo)s?\b|\b(?:person|people|man|woman|girl|boy) of colou?r\b",
    r"\b(?:dark|light|fair|pale|brown|black|white|olive|tan|tanned|darker|lighter|yellow|red|golden|bronze|bronzed"
    r"|ebony|ivory|chocolate|swarthy|tawny)[- ]skin(?:ned)?\b(?!-| (?:bag|boots|jacket|coat|leather|shoes|tight))"
    r"|\bcomplexion\b|\bskin[- ](?:tone|colou?r)\b(?!ed)|\bskin is\b",
    # Garments such as a hijab or a turban may be named, the faith behind them may not.
    rf"\b{_FAITHS}\b(?! (?:print|style|pattern))|\b(?:jewish|christian)\b(?! (?:dior|louboutin|lacroix|siriano))",
    r"\b(?:religion|religious|religiously|faith|atheist|devout)\b",
    r"\b(?:pregnant|pregnancy|disabled|disability|handicapped|crippled|autistic|autism|obese|obesity|anorexic"
    r"|diabetic|mentally|illness|disease|diseased|wheelchair-bound|syndrome|addict|unhealthy|infected"
    r"|depression)\b(?!-)",
    # "A patient gown" and "a sick green" are allowed.
    rf"\b(?:sick|ill|injured|blind|deaf|depressed) {_ADJECTIVES}{_PERSONS}|\bpatients?\b(?! (?:gown|robe|chart))",
    r"\b(?:is|looks|be|are) (?:sick|ill|injured|blind|deaf|depressed)\b(?!-)|\b(?:has|with|from) cancer\b",
    r"\b(?:gay|lesbian|homosexual|heterosexual|bisexual|transgender|transsexual|queer|non-binary|nonbinary|lgbtq?)\b",
    r"\b(?:almond-shaped|slanted|slanting|monolid) eyes\b|\bafro-(?:american|caribbean)\b",
    # Social status.
    rf"\b(?:rich|poor|wealthy|homeless|affluent|needy|impoverished|lower-class|upper-class|working-class|educated"
    rf"|uneducated) {_ADJECTIVES}{_PERSONS}(?!'|-)",
    r"\b(?:immigrant|refugee|migrant|nationality|citizen|republican|democrat|communist|nazi)s?\b",
)
PROTECTED_AGE = any_of(
    r"\b\d{1,2}[- ]?(?:years?|yrs?)[- ](?:old\b|of age)|\baged? (?:about |around |approximately |between )?\d",
    r"\b(?:mid|early|late|his|her|their)[- ]+(?:(?:mid|early|late|to)[- ]+)*(?:teens|twenties|thirties|forties"
    r"|fifties|sixties|seventies|eighties|\d0'?s)\b",
    r"\bin (?:the )?(?:twenties|thirties|forties|fifties|sixties|seventies|\d0'?s)\b|\bic[1-9]\b",
    r"\b(?:of|aged?|about|around|nearly|almost|roughly|approximately|over|under) (?:about |around "
    r"|roughly )?(?:twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty"
    r"|sixty|seventy|eighty)\b",
)
"""An age in years, which looks do not tell. "Young" and "elderly" are accepted: templates ask for them."""

PICTURE = any_of(
    # "The picture on his shirt" and "a framed picture" describe things.
    r"\b(?:this|the|in an?) (?:[\w-]+ ){0,2}(?:image|picture|photo|photograph|footage|snapshot)\b(?! (?:on|of"
    r"|frame)\b)(?!-)",
    r"\b(?:this|the) (?:shot|frame|portrait|composition|close-up)\b|\bin (?:frame|shot|full view)\b",
    r"^(?:an? |the )?(?:[\w-]+ ){0,4}(?:image|photo|photograph|shot|snapshot|portrait|footage|close-up|view) of\b",
    r"\b(?:pictured|photographed|captured|depicted|portrayed|shot) (?:in|from|at|against|here|with|by|mid)\b",
    r"\b(?:we|you) (?:can )?see\b|\b(?:i|my|me|mine|our)\b",
)
"""The caption speaks of the picture, or for its writer, instead of the person."""

ABSENT = any_of(
    r"\bno (?!one\b)(?=[a-z])|\bnot an?\b|\bnone\b|\bnothing\b|\bneither\b|\bnor\b|\bwithout(?! (?:an? "
    r"|any )?(?:\w+ )?(?:hood|collar|sleeve|belt|heel|lace|strap|button|zip|lapel|pocket|brim|back|lining|tread)s?\b)",
    r"\b(?:isn't|aren't|doesn't|don't|hasn't|haven't|is not|are not|does not|do not|has not|not) (?:\w+ly )?(?:have"
    r"|has|be|being|wear|wearing|carry|carrying|hold|holding|show|any|in possession|present|accompanied)\b",
    r"\b(?:lacks?|lacking|absent|absence|devoid|free of|free from|minus|forgo|forgoes|forgoing|omits?|omitting)\b",
    r"\b(?:hat|bag|glove|tie|shoe|jewel|phone|helmet)less\b|\bempty[- ]handed\b|\bhands?(?:[- ]| is | are )(?:free"
    r"|empty)\b|\bempty hands\b|\bunaccompanied\b",
)
"""What is not there. A search engine's encoder reads "no bag" as a bag."""

_OTHER_THINGS = r"(?:hand|arm|foot|leg|shoulder|side|strap|wrist|sleeve|shoe|sock|glove|ear|knee|end|half|elbow|one)"
TOGETHER = any_of(
    r"\b(?:a|the|large|small) (?:group|crowd|pair|couple|trio|team|family|row|bunch) of (?:\w+ ){0,2}(?:people"
    r"|persons|men|women|boys|girls|children|kids|models|friends|students|players|supporters|males|females|teenagers"
    r"|adults|pedestrians)\b",
    r"\b(?:a|the|young|old|elderly|married|this) couple\b(?! of)|\btwins?\b(?! (?:set|buttons|pockets|straps))",
    rf"\bone (?:in|wearing|with|is|has)\b.*\bthe other\b(?! {_OTHER_THINGS})|\bthe other (?:person|man|woman|boy"
    rf"|girl)\b",
    r"\beach other\b|\barm in arm\b|\bhand in hand\b|\baccompanied by\b|\bpart of a (?:crowd|group)\b|\bone another\b",
    r"\bboth of them\b|\bthey both\b|\bfamily\b(?! of)|\bsomeone else\b",
    r"\b(?:child|son|daughter|wife|husband|friend|woman|man|girl|boy|baby|person)'s (?:hand|arm|shoulder)\b",
)
"""Several persons, without a noun for the second."""

ROLE = any_of(
    r"\b(?:security|prison|life)[ -]?guard\b(?!')|\b(?:works?|working|serves) as\b|\bby (?:profession|trade)\b"
)
"""Roles that are no single word. The others are in `words`."""

IDENTITY = any_of(
    r"\b(?:named|whose name|(?:his|her|their) name|identified as|known (?:\w+ )?as|nicknamed|called)\b",
    r"\b(?:famous|well-known|celebrity|renowned|world-famous|iconic|legendary|notable|superstar|movie star"
    r"|pop star)\b",
    r"\bresembl(?:es?|ing|ance)\b|\bremind(?:s|ing)? (?:me|one|us) of\b|\breminiscent of\b|\blook-?a-?like\b"
    r"|\bimpersonat(?:or|ing|es)\b|\bdoppelg|\bbelieved to be\b|\bsuspect\b|\bmr\.?\b|\bmrs\.?\b|\bms\.",
)
"""Who the person is, or is like. Names without such a word are found by `rules` through their capitals."""
GIVEN_NAMES = word_set(
    "james john robert michael william david richard joseph thomas charles christopher daniel matthew anthony donald",
    "steven paul andrew joshua kenneth kevin brian george edward ronald timothy jason jeffrey ryan jacob gary",
    "nicholas eric jonathan stephen larry justin scott brandon benjamin samuel frank gregory raymond alexander",
    "patrick jack dennis jerry tyler aaron jose adam henry nathan peter kyle walter ethan jeremy harold keith",
    "christian roger noah gerald carl terry sean austin arthur lawrence jesse dylan bryan joe jordan billy bruce",
    "albert willie gabriel logan alan juan wayne elijah randy roy vincent ralph eugene russell bobby mason philip",
    "louis harry oscar leo lucas liam mary patricia jennifer linda elizabeth barbara susan jessica sarah karen lisa",
    "nancy betty sandra margaret ashley kimberly emily donna michelle carol amanda melissa deborah stephanie rebecca",
    "sharon laura cynthia amy kathleen angela shirley brenda emma anna pamela nicole samantha katherine christine",
    "helen debra rachel carolyn janet maria catherine heather diane olivia julie joyce victoria ruth virginia lauren",
    "kelly christina joan evelyn judith andrea hannah megan cheryl jacqueline martha madison teresa gloria sara",
    "janice ann kathryn sophia frances jean alice judy isabella julia denise natalie charlotte marie diana beverly",
    "sofia mia chloe zoe lily ella ava taylor gisele naomi claudia heidi cindy bella beyonce rihanna madonna adele",
    "shakira cher ronaldo messi neymar obama trump einstein elvis mohammed ahmed ali omar hassan fatima aisha yusuf",
    "wei li ming hiroshi yuki sakura raj priya carlos miguel luis ana",
)
"""A caption that begins with one of these names somebody; at other places capitals tell."""

FLATTERY = any_of(
    r"\b(?:beautiful|beautifully|gorgeous|stunning|stunningly|attractive|attractively|handsome|lovely|cute|adorable"
    r"|charming|breathtaking|captivating|flawless|ravishing|good[- ]looking|best-looking|pretty(?= (?:\w+ )?(?:woman"
    r"|girl|lady|face|smile|dress|boy|eyes|hair|young|little|in))|ugly|hideous|unattractive|homely|beauty(?! (?:bag"
    r"|case))|dreamy|angelic|graceful beauty|eye-catching (?:woman|man|girl|boy))\b",
    r"\b(?:sexy|sexually|sexual|seductive|seductively|sensual|sensually|sultry|alluring|provocative|provocatively"
    r"|erotic|curvy|curvaceous|voluptuous|busty|shapely|buxom|hunky|titillating|flirtatious|tempting|scantily)\b",
    r"\b(?:hourglass|figure[- ]hugging|body[- ]hugging|curve[- ]hugging|cleavage|bosom|buttocks|butt|ample bust"
    r"|breasts?(?! pocket)|bust|nipples?|crotch|bottom cheeks)\b|\b(?:her|his) curves\b|\bevery curve\b",
    r"\b(?:is|looks?) (?:very |so |really |super |pretty )?(?:hot|pretty|sexy)\b|\bhot (?:woman|girl|man|guy|lady"
    r"|babe)\b",
    r"\bflatter\w*\b|\bflaunt\w*\b|\b(?:hug\w*|accentuat\w+|emphasi[sz]\w+|show\w* off|reveal\w*|highlight\w*"
    r"|enhanc\w+) (?:her|his|the)(?: \w+){0,2} (?:figure|body|curves?|legs|thighs|physique|waist|hips|muscles|bust"
    r"|silhouette|shape|skin|midriff|cleavage|frame|form)\b|\b(?:legs|body|figure|curves) (?:is|are) shown off\b",
    r"\b(?:bulging|rippling|chisell?ed|ripped muscles|toned|glistening|radiant|dazzling|glamorous|amazing|fabulous"
    r"|magnificent|wonderful|exquisite|marvell?ous|irresistible|desirable|bombshell|babe|hunk|hottie)\b",
    r"\b(?:fat|chubby|overweight|plump|scrawny|flabby) (?:\w+ )?(?:wom[ae]n|m[ae]n|girl|boy|lady|guy|person|kid)\b",
    r"\b(?:perfect|toned|slender|endless|great|nice|killer|sculpted|chisell?ed|ripped) (?:legs|body|figure|physique"
    r"|abs|jaw\w*|torso|skin|curves|features)\b",
)
"""Praise or blame of looks, and words that make an object of the person."""

_EMOTIONS = (
    "happy happily sad sadly angry angrily excited excitedly cheerful cheerfully joyful joyfully joyous melancholic "
    "melancholy nervous nervously agitated worried worriedly upset anxious anxiously lonely bored proud proudly "
    "confident confidently carefree friendly unfriendly kind-hearted rebellious dangerous aggressive menacing "
    "mysterious shy shyly scared afraid frightened fearful annoyed frustrated irritated depressed gloomy pensive "
    "pensively thoughtful thoughtfully contemplative serene serenely peaceful tranquil energetic enthusiastic eager "
    "determined intimidating approachable optimistic pessimistic hopeful hopeless stressed relieved charismatic "
    "intelligent trustworthy arrogant humble grumpy grouchy moody sullen surprised astonished amazed shocked startled "
    "delighted thrilled elated ecstatic jubilant gleeful overjoyed pleased satisfied disappointed discouraged "
    "embarrassed ashamed guilty jealous envious disgusted confused puzzled bewildered curious suspicious exhausted "
    "weary tired sleepy stern-looking furious enraged hostile calmly lonesome heartbroken miserable tense uneasy "
    "restless impatient self-conscious self-assured self-confident purposeful dreamy wistful nostalgic timid outgoing "
    "introverted ambitious hardworking lazy stubborn polite rude wise innocent naive mischievous"
)
_ABSTRACT = (
    "happiness unhappiness sadness anger excitement joy melancholy anxiety confidence self-confidence assurance "
    "self-assurance purpose determination exhaustion fatigue rebellion authority professionalism enthusiasm curiosity "
    "boredom delight contentment mood vibe attitude aura emotion emotions demeanor demeanour personality charisma "
    "charm poise swagger serenity tranquility"
)
FEELING = any_of(
    # "A happy-face print" is no feeling, "angry-looking" is one.
    rf"\b(?:{_EMOTIONS.replace(' ', '|')}|{_ABSTRACT.replace(' ', '|')}|emotional)\b(?!-(?!looking))",
    # She looks somewhere, or looks like something: how somebody looks is a judgement.
    r"\b(?:he|she|man|woman|boy|girl|person|lady|guy|and|jeans|who) looks? (?!at|to|down|up|left|right|back|over|away"
    r"|into|straight|ahead|forward|directly|towards?|through|out|off|sideways|around|from|for|on|in|across|behind"
    r"|past|upwards?|downwards?|slightly)\w+",
    r"\b(?:exud|radiat|convey|evok|emanat)\w*\b|\b(?:a|an) (?:\w+ ){0,2}(?:sense|air|feeling|look) of\b",
    r"\b(?:feels?|feeling|enjoys?|enjoying|thinks?|wants?|wishes|hopes|loves|likes|wonders|decides|dreams?|dreaming"
    r"|remembers|misses|needs|worries|longs)\b",
    r"\b(?:lost|deep) in thought\b|\bin a hurry\b|\bdaydreaming\b|\bhaving fun\b|\blong day\b|\bcontent(?= (?:and"
    r"|with|smile))",
)
"""Feelings and character, which a picture does not tell. Smiling is seen and accepted."""

ARTEFACT = any_of(
    r"\b(?:mannequin|manikin|statue|sculpture|waxwork|wax figure|dress form|tailor's dummy|scarecrow|store dummy"
    r"|cardboard cut-?out|cut-?out of|bust of|screenshot|video game)\b(?!-)|^[\w ,-]*\baction figure\b",
    r"\b(?:is|are) an? (?:\w+ ){0,2}(?:doll|cartoon|drawing|painting|figurine|robot|puppet|avatar|toy|character)\b",
)
LIKENESS = word_set(
    "cartoon anime manga drawing painting sketch illustration illustrated rendering render poster doll puppet robot",
    "android avatar character dummy figurine cgi emoji mascot silhouette hologram mural engraving watercolor",
    "watercolour caricature animated toy plush lego 3d billboard",
)
"""A picture or a likeness of a person, where it comes before the person and the clothes."""

_NEAR = (
    r"(?:in|inside|at|by|near|against|beside|behind|outside|before|past|through|among|amid|amidst|amongst|around"
    r"|under|beneath|along|towards?|into|from|next to|in front of|on|across|within|close to|leaning on|between|onto"
    r"|beyond)"
)
_PLACES = (
    r"(?:station|platform|field|pitch|court|room|bar|hall|gallery|terminal|site|loft|studio|stage|school|pool|bridge"
    r"|parking lot|car park|train|counter|archway|rail|railing|lift|machine|desk|bed|background|backdrop|scene"
    r"|setting|snow|rain|sun|sunshine|crowd|lavender|yard|square|plaza|roof|shelter|dock|pier|harbou?r|marina|farm"
    r"|barn|factory|warehouse|garage|workshop|festival|party|event|wedding|ceremony|carpet|booth|stall|mirror"
    r"|graffiti|neon|countryside|landscape)"
)
_AFTER_A_PLACE = (
    r"(?=s?(?: ?[.,;:!?)]|$| (?:and|or|with|of|at|in|on|by|near|next|where|that|which|who|while|as|wearing|wears|is"
    r"|behind|beside|holding|carrying|under|full|during|along|to|framing|around|his|her)\b))"
)
SCENE = any_of(
    r"\b(?:background|backdrop|foreground|surroundings|scenery|skyline|atmosphere|ambian?ce|lighting|weather"
    r"|landscape|blurred|bokeh|out of focus|horizon)\b",
    # "Her hair is tucked behind her ear."
    r"\bbehind (?:him|her|them)(?= ?[.,;]|$| (?:and|is|are|stands?|while)\b)",
    r"\bbehind the (?:man|woman|person|boy|girl|individual|pedestrian|male|female|model|subject)\b",
    r"\bsurrounded by\b|\bthe edge of (?:a|the) (?!shirt|coat|hood|skirt|sleeve|dress|jacket)|\bstretching out\b"
    r"|\b(?:nearby|overlooking)\b|\breflect(?:s|ing) the\b|\bset (?:against|amid|among|(?:in|on) (?:an?|the))\b"
    r"|\bin the (?:distance|snow|rain|sun|dark|shade|open)(?= ?[.,;]|$| (?:and|with|on|by)\b)",
    r"\bon (?:either|both) sides? of the (?!jacket|coat|shirt|bag|skirt|dress|head|face|hem|trousers|pants)"
    r"|\bto (?:his|her|their|the) (?:left|right) (?:is|are|stands?|there)\b|\bparked\b|\blines? the (?:kerb|curb"
    r"|street|road|path|walls?|room)\b",
    rf"\b{_NEAR} (?:the |an? |some |his |her |its |rows? of |fields? of |two |many "
    rf"|several )+(?:[\w-]+ ){{0,3}}?{_PLACES}{_AFTER_A_PLACE}",
    rf"\b(?:among|amid|amidst|amongst|beneath|against) (?:[\w-]+ ){{0,3}}?{_PLACES}{_AFTER_A_PLACE}",
    r"\b(?:sunny|cloudy|overcast|rainy|snowy|foggy|misty|windy|stormy) (?:day|weather|sky|afternoon|morning|evening"
    r"|night|street|scene|light)\b|\bit is (?:\w+ly )?(?:snowing|raining|sunny|cloudy|night|dark|daytime|winter"
    r"|summer)\b",
    r"\b(?:snowflakes?|raindrops?|falling leaves|fallen leaves|puddles?|clouds?|street lamps?|streetlights?)\b",
    r"\b(?:rain|snow|sunlight|sunshine|sun|light|shadows?|lights?|mist|fog) (?:is |are )?(?:pours?|pouring|falls?"
    r"|falling|shines?|shining|streams?|streaming|filters?|filtering|casts?|casting)\b",
    r"\b(?:night ?time|daytime|daylight|dusk|dawn|sunset|sunrise|golden hour|at night|afternoon|twilight|midday)\b"
    rf"(?! (?:{_COLORS}|shades?|tones?|hues?|colou?rs?|print)\b|-)"
    r"|\b(?:natural|soft|warm|bright|dim|ambient|studio|harsh|dappled) (?:\w+ )?(?:light|lighting|sunlight"
    r"|glow)\b(?! (?:blue|green|grey|gray|brown|pink))",
    r"\blots? of (?:people|cars|trees)\b|\b(?:location|place|venue|time) is\b",
    r"(?:^|[.;,] ?)(?:the|a) (?:\w+ )?(?:room|street|floor|wall|ground|scene|setting|environment|place|area|sky"
    r"|sun) (?:has|is|are|shows|features|appears|looks|behind|around)\b",
)
"""Place, background, weather and light. Where somebody walks or sits ("down the street", "on a bench") is accepted."""
