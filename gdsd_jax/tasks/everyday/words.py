"""What the generated prompts ask, and about what: templates with one gap, and what may fill it."""

COUNTRIES = """
    Algeria Angola Argentina Armenia Australia Austria Bangladesh Belgium Bolivia Botswana Bulgaria
    Cambodia Cameroon Canada Chad Chile China Colombia Croatia Cuba Cyprus Denmark Ecuador Estonia
    Ethiopia Finland Gabon Georgia Ghana Greece Guatemala Guinea Haiti Honduras Hungary Iceland
    India Indonesia Iran Iraq Ireland Jamaica Jordan Kazakhstan Kenya Kuwait Laos Latvia Lebanon
    Liberia Libya Lithuania Luxembourg Madagascar Malawi Malaysia Mali Malta Mexico Moldova Monaco
    Mongolia Morocco Mozambique Namibia Nepal Nicaragua Niger Nigeria Norway Oman Pakistan Panama
    Paraguay Peru Poland Portugal Qatar Romania Rwanda Senegal Serbia Singapore Slovakia Slovenia
    Somalia Spain Sudan Sweden Switzerland Syria Tanzania Thailand Togo Tunisia Turkey Uganda
    Ukraine Uruguay Venezuela Vietnam Yemen Zambia Zimbabwe
""".split()
ANIMALS = """
    ant bat bear beaver bee bull butterfly camel cat chicken cow crab crocodile deer dog dolphin
    donkey duck eagle elephant falcon fish fly fox frog giraffe goat goose gorilla hamster hare
    horse jellyfish kangaroo koala lizard lobster mole monkey mosquito mouse octopus ostrich otter
    owl panda parrot peacock penguin pig pigeon rabbit rat raven salmon seal shark sheep snail snake
    squirrel swan tiger tortoise turkey turtle whale wolf worm zebra
""".split()
THINGS = """
    anchor axe backpack balloon basket bell bicycle blanket book bottle bowl bridge broom brush
    bucket bus button calendar camera candle chair clock coat coin comb compass computer cup curtain
    desk dictionary door drum fan fence flag fork glove guitar hammer hat helmet hose kettle key
    keyboard kite knife ladder lamp lens lock magnet map mirror nail needle net newspaper notebook
    oven pan pencil phone piano pillow pipe plate plough pot printer pump radio rope ruler saw scale
    scarf screw shelf ship shoe shovel soap sofa spoon stamp stove table telescope tent thermometer
    towel train umbrella vase violin wallet watch wheel whistle window
""".split()
JOBS = """
    actor architect author baker barber butcher carpenter cashier chef chemist coach dancer dentist
    detective doctor driver editor electrician farmer firefighter fisherman gardener geologist guard
    hairdresser historian journalist judge lawyer librarian lifeguard mechanic miner musician nurse
    optician painter pharmacist photographer pilot plumber postman programmer sailor scientist
    secretary shepherd singer soldier surgeon tailor teacher translator veterinarian waiter welder
""".split()
FOODS = """
    bread butter cheese chocolate coffee cream curry honey jam juice lemonade mustard noodles
    pancakes pasta pizza popcorn porridge pudding rice salad salsa sauce soup stew sushi tea toast
    tofu yogurt
""".split()
CONCEPTS = """
    friendship gravity electricity photosynthesis inflation democracy evolution music poetry
    kindness patience honesty courage recycling pollution erosion evaporation friction magnetism
    energy temperature weather climate rain snow wind thunder lightning volcanoes earthquakes tides
    seasons sleep memory language grammar mathematics geometry algebra statistics biology chemistry
    physics history geography economics philosophy psychology medicine vaccination nutrition
    exercise digestion breathing hearing eyesight farming fishing mining trade money banking
    insurance taxation law justice freedom education teamwork leadership creativity curiosity
    architecture painting sculpture photography theatre cinema sport chess cooking gardening
    programming encryption
""".split()
ADJECTIVES = """
    angry bitter brave bright calm careful cheap clean clever cloudy cruel curious dangerous dark
    deep dry early easy empty expensive famous fast fat fresh friendly full generous gentle happy
    hard healthy heavy high honest humble hungry kind large late lazy light long loud lucky modern
    narrow near neat new noisy old patient polite poor proud quick quiet rare rich rough sad safe
    sharp short shy simple slow small smooth soft sour strange strong sweet tall thick thin tired
    ugly warm weak wet wide wild wise young
""".split()
KINDS = """
    animals birds cities colors countries desserts drinks emotions fish flowers fruits furniture
    games gases holidays hobbies insects instruments islands jobs languages metals mountains oceans
    planets rivers seasons shapes spices sports subjects tools toys trees vegetables vehicles
    weapons writers
""".split()
PROGRAMS = (
    "adds two numbers",
    "returns the larger of two numbers",
    "returns the smallest item of a list",
    "counts the vowels of a string",
    "reverses a list",
    "checks whether a number is even",
    "checks whether a string is empty",
    "returns the last item of a list",
    "squares every number of a list",
    "returns the length of a string",
    "joins two lists",
    "removes duplicates from a list",
    "counts how often an item is in a list",
    "converts hours to minutes",
    "returns the average of a list of numbers",
    "makes a string upper case",
    "counts the words of a sentence",
    "returns the sum of the digits of a number",
    "checks whether a year is a leap year",
    "returns the first three characters of a string",
    "sorts a list from high to low",
    "multiplies all numbers of a list",
    "swaps the keys and values of a dictionary",
    "returns the area of a rectangle",
    "returns the absolute value of a number",
    "prints the numbers from one to ten",
    "finds the longest word of a sentence",
    "checks whether two lists are equal",
    "replaces spaces by underscores",
    "returns the even numbers of a list",
)
REQUESTS = (
    "Close the door.",
    "Give me the report today.",
    "You are late again.",
    "I do not like this soup.",
    "Send me the money now.",
    "Your plan will not work.",
    "Stop talking.",
    "Bring me a glass of water.",
    "This room is too cold.",
    "Tell me your name.",
    "Wait here.",
    "Move your car.",
)
SITUATIONS = (
    "I have a cold",
    "I cannot sleep",
    "I lost my keys",
    "I am bored",
    "my friend is sad",
    "my computer is slow",
    "I want to save money",
    "I want to learn a language",
    "I have an exam tomorrow",
    "I am new in town",
    "my plants are dying",
    "I want to run faster",
    "I forgot a birthday",
    "I feel nervous",
    "my neighbor is loud",
    "I want to read more",
    "I missed the bus",
    "I spilled coffee on my shirt",
    "I have too many emails",
    "I want to eat less sugar",
)
# (templates, what fills the gap of each)
TOPICS = (
    (
        (
            "What is the capital of {}?",
            "On which continent is {}?",
            "Describe {} in one sentence.",
            "Name one thing that {} is known for.",
        ),
        COUNTRIES,
    ),
    (
        (
            "What does a {} eat?",
            "Where does a {} live?",
            "How many legs does a {} have?",
            "Write a short story about a {}.",
        ),
        ANIMALS,
    ),
    (
        (
            "What is a {} used for?",
            "What is a {} made of?",
            "Write one sentence about a {}.",
        ),
        THINGS,
    ),
    (("What does a {} do at work?", "Name two tools that a {} needs."), JOBS),
    (
        ("What does {} taste like?", "What do you need to make {}?", "Is {} good for your health?"),
        FOODS,
    ),
    (
        ("What is {}?", "Explain {} to a child in two sentences.", "Why does {} matter?"),
        CONCEPTS,
    ),
    (
        (
            "What is the opposite of {}?",
            'Use the word "{}" in a sentence.',
            'Give another word for "{}".',
        ),
        ADJECTIVES,
    ),
    (("Name three {}.", "Which of all {} do you like best, and why?"), KINDS),
    (("Write a Python function that {}.",), PROGRAMS),
    (("Say this in a polite way: {}", "Say this in other words: {}"), REQUESTS),
    (("What can I do? {}.", "Write a short message to a friend: {}."), SITUATIONS),
)
SUMS = ("What is {} plus {}?", "What is {} minus {}?", "What is {} times {}?")
