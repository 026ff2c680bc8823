"""The words and phrases that the synthetic chats of the embedded base model are made of.

Everyday, neutral matters only: home, garden, kitchen, pets, music, sport, school, weather. Nothing about a company's
customers, their orders, payments or complaints: the demo's task and the evaluation sets stay unseen.
"""

# The phrases read best as lists.
# ruff: noqa: E501
from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: category -> members.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": _words("cat dog horse cow sheep goat pig rabbit fox wolf bear lion tiger mouse deer camel otter beaver"),
    "bird": _words("owl eagle robin crow duck swan goose parrot sparrow pigeon heron falcon finch stork gull raven"),
    "fish": _words("salmon trout cod tuna carp pike eel herring shark perch sardine mackerel haddock bass"),
    "insect": _words("ant bee wasp beetle moth butterfly fly cricket ladybird dragonfly mosquito grasshopper"),
    "colour": _words("red blue green yellow orange purple pink brown black white grey violet crimson teal amber gold"),
    "shape": _words("circle square triangle oval star cube cone sphere hexagon rectangle pyramid cylinder diamond"),
    "fruit": _words("apple pear plum cherry grape lemon melon peach banana mango fig apricot lime kiwi papaya quince"),
    "vegetable": _words("carrot onion potato tomato cabbage spinach leek bean pea pumpkin radish turnip celery garlic"),
    "drink": _words("water tea coffee milk juice lemonade cocoa cider soda smoothie espresso"),
    "meal": _words("soup salad stew pasta pizza curry omelette pancake sandwich pie porridge risotto lasagne"),
    "tool": _words("hammer saw drill wrench pliers chisel screwdriver file shovel rake axe spade ladder trowel"),
    "instrument": _words("piano violin guitar flute drum trumpet harp cello clarinet oboe banjo organ tuba viola"),
    "vehicle": _words("car bus train bicycle lorry tram boat ferry plane scooter van canoe tractor motorbike"),
    "clothing": _words("shirt coat hat sock shoe scarf glove skirt jacket dress belt boot sweater jumper trousers"),
    "furniture": _words("table chair sofa bed desk shelf wardrobe bench stool cupboard drawer lamp mirror bookcase"),
    "room": _words("kitchen bathroom bedroom hall attic cellar garage office nursery pantry study"),
    "tree": _words("oak pine birch maple willow elm ash cedar beech fir poplar spruce chestnut"),
    "flower": _words("rose tulip daisy lily poppy violet sunflower daffodil orchid iris crocus lavender"),
    "weather": _words("rain snow wind fog hail thunder storm sunshine frost drizzle cloud lightning breeze"),
    "sport": _words("tennis football swimming rowing golf hockey cricket running boxing judo sailing cycling chess"),
    "subject": _words("history geography physics chemistry biology algebra grammar music art drama latin geometry"),
    "feeling": _words("happy sad angry tired proud afraid bored calm lonely excited nervous cheerful grateful"),
    "family": _words(
        "mother father sister brother aunt uncle cousin grandmother grandfather daughter son nephew niece"
    ),
    "job": _words("teacher baker farmer doctor nurse painter pilot sailor tailor carpenter gardener plumber librarian"),
    "body": _words("head hand foot knee elbow shoulder finger nose ear mouth ankle wrist back neck toe"),
    "material": _words("wood stone glass paper cotton wool silk iron copper silver clay leather plastic steel"),
    "season": _words("spring summer autumn winter"),
    "month": _words("January February March April May June July August September October November December"),
    "weekday": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "place": _words("river mountain forest beach desert valley lake island meadow cave harbour village park bridge"),
    "planet": _words("Mercury Venus Mars Jupiter Saturn Uranus Neptune"),
    "toy": _words("doll kite puzzle marbles blocks yoyo ball robot balloon teddy"),
    "number": _words("one two three four five six seven eight nine ten eleven twelve twenty thirty hundred"),
}

FIRST_NAMES = _words(
    "Ada Ben Clara Dan Eva Finn Grace Hugo Iris Jack Kate Leo Mia Noah Olga Paul Quinn Rosa Sam Tess Uma Victor Wanda "
    "Xavier Yara Zoe Amir Bella Carlos Dora Emil Fatima George Hanna Ivan Julia Karim Lena Marco Nina Omar Petra"
)
LAST_NAMES = _words(
    "Adler Brook Carter Dunn Ellis Fischer Gray Hill Ivers Jones Keller Lane Moss Novak Owen Park Quist Reed Stone "
    "Tanaka Ueda Vogel Wood Young Zeller Almeida Berg Costa Duarte Evans Ford Garcia Hansen Ito Khan Lopez Meyer"
)
CITIES = _words(
    "Lisbon Oslo Vienna Madrid Berlin Paris Rome Athens Cairo Lima Quito Tokyo Osaka Delhi Nairobi Dublin Prague "
    "Warsaw Boston Denver Toronto Sydney Perth Zurich Geneva Porto Turin Lyon Ghent Bergen"
)

#: domain -> activity -> ways to say it (after "I want to", "how do I", "I forgot to" ...).
ACTIVITIES: dict[str, dict[str, tuple[str, ...]]] = {
    "kitchen": {
        "bake_bread": ("bake a loaf of bread", "make my own bread", "get a sourdough going", "bake some rolls"),
        "boil_eggs": ("boil an egg", "cook eggs in hot water", "make soft boiled eggs", "cook a couple of eggs"),
        "cook_rice": ("cook rice", "make a pot of rice", "steam some basmati", "get the rice fluffy"),
        "sharpen_knife": ("sharpen a knife", "get the edge back on a blade", "make the kitchen knife sharp again"),
        "store_leftovers": ("store leftovers", "keep last night's dinner fresh", "put the rest of the food away"),
        "clean_oven": ("clean the oven", "scrub the oven", "get burnt grease off the oven door"),
        "peel_garlic": ("peel garlic", "get the skin off garlic cloves", "peel a whole bulb of garlic"),
        "make_jam": ("make jam", "turn the berries into jam", "preserve the strawberries in jars"),
        "defrost_freezer": ("defrost the freezer", "get the ice out of the freezer", "melt the frost in the ice box"),
        "brew_coffee": ("brew coffee", "make a good cup of coffee", "get a stronger espresso"),
    },
    "garden": {
        "water_plants": ("water the plants", "give the flowers a drink", "keep the pots from drying out"),
        "prune_roses": ("prune the roses", "cut back the rose bushes", "trim the roses after winter"),
        "mow_lawn": ("mow the lawn", "cut the grass", "trim the grass in the back yard"),
        "plant_bulbs": ("plant bulbs", "put tulip bulbs in the ground", "set the daffodils before frost"),
        "pull_weeds": ("pull weeds", "get rid of the weeds", "clear the dandelions from the path"),
        "start_compost": ("start a compost heap", "turn kitchen scraps into soil", "set up a compost bin"),
        "build_fence": ("build a fence", "put up a fence", "fence in the vegetable patch"),
        "feed_birds": ("feed the birds", "hang up a bird feeder", "put out seeds for the birds"),
        "pick_apples": ("pick the apples", "harvest the apple tree", "get the fruit down from the tree"),
        "stop_snails": ("stop the snails", "keep slugs off the lettuce", "protect the seedlings from snails"),
    },
    "pets": {
        "walk_dog": ("walk the dog", "take the dog out", "give the puppy some exercise"),
        "train_puppy": ("train a puppy", "teach the dog to sit", "get the puppy to come when called"),
        "brush_cat": ("brush the cat", "comb the cat's fur", "get the knots out of my cat's coat"),
        "clean_tank": ("clean the fish tank", "change the water in the aquarium", "get the algae off the glass"),
        "trim_claws": ("trim the claws", "cut my cat's nails", "clip the rabbit's nails"),
        "feed_kitten": ("feed a kitten", "find the right food for a kitten", "know how much a kitten should eat"),
        "find_lost_pet": ("find a lost pet", "look for my missing cat", "search for the dog that ran away"),
        "visit_vet": ("visit the vet", "take the rabbit to the vet", "get the dog checked by a vet"),
    },
    "home": {
        "fix_tap": ("fix a dripping tap", "stop the tap from leaking", "repair the faucet in the bathroom"),
        "paint_wall": ("paint a wall", "give the bedroom a fresh coat", "change the colour of the hall"),
        "hang_picture": ("hang a picture", "put a frame on the wall", "get a nail in for the painting"),
        "change_bulb": ("change a light bulb", "replace the lamp in the hall", "swap the broken bulb"),
        "wash_clothes": ("wash the clothes", "do the laundry", "get the muddy trousers clean"),
        "iron_shirt": ("iron a shirt", "get the creases out of a shirt", "press my white shirt"),
        "remove_stain": ("remove a stain", "get red wine out of the carpet", "clean ink from a sleeve"),
        "bleed_radiator": ("bleed a radiator", "let the air out of the heating", "make the cold radiator warm again"),
        "unblock_sink": ("unblock the sink", "clear the drain", "get the water to run down again"),
        "sweep_chimney": ("sweep the chimney", "clean the fireplace", "get soot out of the flue"),
        "find_keys": ("find my keys", "look for the lost house keys", "remember where the keys are"),
        "lock_window": ("lock the window", "make the window close properly", "fix the latch on the window"),
    },
    "craft": {
        "knit_scarf": ("knit a scarf", "make a woollen scarf", "learn to knit something warm"),
        "sew_button": ("sew on a button", "put a button back on my coat", "attach a loose button"),
        "mend_sock": ("mend a sock", "darn the hole in my sock", "repair a torn sock"),
        "fold_paper": ("fold a paper crane", "make an origami bird", "fold paper into a boat"),
        "carve_spoon": ("carve a spoon", "cut a spoon out of wood", "whittle a wooden spoon"),
        "build_kite": ("build a kite", "make a kite from paper", "get a home made kite to fly"),
        "glue_vase": ("glue a vase", "put the broken vase together", "mend the cracked pot"),
        "draw_face": ("draw a face", "sketch a portrait", "get the eyes right in a drawing"),
    },
    "music": {
        "tune_guitar": ("tune a guitar", "get the strings in tune", "make my guitar sound right"),
        "read_notes": ("read notes", "learn sheet music", "understand what the notes mean"),
        "practise_scales": ("practise scales", "play scales faster", "do my finger exercises"),
        "join_choir": ("join a choir", "sing with other people", "find a group to sing in"),
        "write_song": ("write a song", "make up a melody", "put words to a tune"),
        "record_piano": ("record the piano", "make a recording of my playing", "capture the sound of a piano"),
    },
    "sport": {
        "learn_swim": ("learn to swim", "swim my first length", "get over my fear of deep water"),
        "run_faster": ("run faster", "improve my time on the track", "get quicker over five kilometres"),
        "pump_tyre": ("pump up a tyre", "put air in my bicycle wheel", "fix a flat tyre on the bike"),
        "climb_wall": ("climb a wall", "start climbing indoors", "get up the climbing wall"),
        "stretch_back": ("stretch my back", "loosen a stiff back", "do something about my sore back"),
        "throw_ball": ("throw a ball further", "improve my throw", "pitch the ball straight"),
        "ride_horse": ("ride a horse", "stay in the saddle", "learn to canter"),
        "skate_backwards": ("skate backwards", "go backwards on the ice", "turn around on skates"),
    },
    "school": {
        "learn_spelling": ("learn spelling", "remember how words are written", "spell difficult words"),
        "write_essay": ("write an essay", "finish my paper on the romans", "start the essay for history"),
        "solve_equation": ("solve an equation", "find x", "work out the algebra problem"),
        "memorise_poem": ("memorise a poem", "learn the verses by heart", "remember all the lines of the poem"),
        "draw_map": ("draw a map", "copy the map of the coast", "put the rivers on a map"),
        "join_club": ("join the chess club", "sign up for drama club", "get into the science club"),
        "borrow_book": ("borrow a book", "take a book home from the library", "get a novel from the library"),
        "present_talk": ("give a talk", "speak in front of the class", "present my project"),
    },
    "travel": {
        "pack_bag": ("pack a bag", "fit everything into one suitcase", "decide what to take along"),
        "read_map": ("read a map", "find the way without a phone", "follow the trail on paper"),
        "pitch_tent": ("pitch a tent", "put up the tent", "get the tent to stand in the wind"),
        "light_campfire": ("light a campfire", "get a fire going", "start a fire with damp wood"),
        "find_path": ("find the path", "get back to the trail", "see where the footpath starts"),
        "watch_stars": ("watch the stars", "find the pole star", "see the milky way"),
        "cross_river": ("cross the river", "get to the other bank", "find a ford"),
        "learn_phrases": ("learn some phrases", "say hello in portuguese", "pick up a little greek"),
    },
    "weather": {
        "ask_rain": ("know if it will rain", "see whether I need an umbrella", "find out about showers tomorrow"),
        "ask_wind": ("know how strong the wind is", "see if it is too windy", "find out about the gale"),
        "ask_snow": ("know when the snow comes", "see if the pass is white", "find out whether it will snow"),
        "ask_sunset": ("know when the sun sets", "see how long it stays light", "find out the time of dusk"),
        "ask_heat": ("know how hot it gets", "see if the heat will last", "find out the highest temperature"),
    },
}

ASKING = (
    "How do I {}?", "how can i {}", "Can you tell me how to {}?", "What is the best way to {}?", "I want to {}.",
    "I'd like to {}, where do I begin?", "I need to {} today.", "Is it hard to {}?", "Could you help me {}?",
    "i tried to {} but it did not work", "My {family} asked me to {}.", "I have never managed to {}.",
    "What do I need to {}?", "Why is it so difficult to {}?", "Any idea how to {}?", "Please explain how to {}.",
    "When is the right time to {}?", "I still have to {} before {weekday}.", "I don't know how to {}.",
    "what should I do first if I want to {}?", "It's been a week and I still can't {}.", "We are going to {} in {month}.",
    "Should I {} now or wait until {weekday}?", "I was told to {}, but nobody showed me how.", "Who can help me {}?",
    "do you know how to {}", "Is there a way to {} without making a mess?", "I just want to {}, that's all.",
    "Am I too old to {}?", "How long does it take to {}?", "can't {} at all, what's wrong?", "I'm trying to {}.",
)  # fmt: skip

ASIDES = (
    "Thanks in advance.", "I have all morning.", "It is {weekday} already.", "My {family} is visiting.",
    "The weather is awful, by the way.", "I am in {city} at the moment.", "This is my first time.", "No hurry.",
    "I don't need help with the {furniture}.", "I already fed the {animal}.", "We had {meal} for lunch.",
    "Sorry if this is a silly question.", "I bought a new {tool} last {weekday}.", "My friend {name} said you would know.",
    "It used to be easy.", "The {fruit} was good, though.", "I hope that makes sense.", "hello,", "Hi there!",
    "Good morning.", "Good evening, I have a question.", "I am a little {feeling}.", "It worked fine in {month}.",
    "I looked everywhere.", "Nobody at home could tell me.", "That is not urgent.", "Please be brief.", "Thank you!",
)  # fmt: skip

#: sentence frames around one word of a category; the category is what the sentence is about.
MENTIONS: dict[str, tuple[str, ...]] = {
    "animal": ("We saw a {} near the road.", "The {} ran away when I came closer.", "My uncle keeps a {} on his farm."),
    "bird": ("A {} sat on the fence this morning.", "The {} is building a nest.", "I heard a {} sing at dawn."),
    "fish": ("They caught a {} in the bay.", "We grilled the {} with lemon.", "The {} swam under the bridge."),
    "insect": ("A {} flew into the room.", "I found a {} under a leaf.", "The {} landed on my sleeve."),
    "colour": ("She painted the door {}.", "My favourite pencil is {}.", "The curtains turned {} in the sun."),
    "shape": ("Draw a {} on the board.", "The window has the form of a {}.", "Cut a {} out of paper."),
    "fruit": ("I ate a {} after lunch.", "The {} is not ripe yet.", "Put a {} in the basket."),
    "vegetable": ("Chop the {} into small pieces.", "The {} grows well in this soil.", "Add a {} to the pot."),
    "drink": ("Would you like some {}?", "The {} is too hot.", "He spilled the {} on the floor."),
    "meal": ("We had {} for dinner.", "The {} needs more salt.", "Grandmother's {} is the best."),
    "tool": ("Hand me the {}, please.", "The {} is rusty.", "I can't find the {} in the shed."),
    "instrument": ("She plays the {} every evening.", "The {} is out of tune.", "He took {} lessons for years."),
    "vehicle": ("The {} stopped at the corner.", "We went there by {}.", "The {} would not start."),
    "clothing": ("My {} has a hole.", "She wore a new {}.", "Hang the {} to dry."),
    "furniture": ("The {} is too heavy to move.", "We put the {} by the window.", "One leg of the {} is loose."),
    "room": ("The {} is cold in winter.", "Someone left the light on in the {}.", "We are painting the {}."),
    "tree": ("The {} lost its leaves.", "There is an old {} behind the house.", "They planted a {} in the square."),
    "flower": ("I picked a {} for her.", "The {} smells sweet.", "Every {} in the bed has opened."),
    "weather": ("The {} kept us inside.", "There will be {} tomorrow.", "We did not expect such {}."),
    "sport": ("They practise {} twice a week.", "He is good at {}.", "The {} lesson starts at four."),
    "subject": ("The {} exam was long.", "She teaches {}.", "I left my {} book at home."),
    "feeling": ("I feel {} today.", "He looked {} when we met.", "The news made her {}."),
    "family": ("My {} lives next door.", "Her {} told the story again.", "I wrote a letter to my {}."),
    "job": ("The {} gets up early.", "He wants to be a {}.", "We asked the {} for advice."),
    "body": ("My {} hurts.", "She bumped her {}.", "Keep your {} warm."),
    "material": ("The box is made of {}.", "They sell things of {}.", "It feels like {}."),
    "place": ("We walked to the {}.", "The {} is quiet at night.", "There is a map of the {}."),
    "toy": ("The child lost the {}.", "He got a {} for his birthday.", "The {} is under the bed."),
}
