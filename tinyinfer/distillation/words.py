"""The words of the prompts: what is asked about, and who and what a story is about. prompts.py puts them together.

A list is one text, its words separated by commas, so that a reader sees it at a glance.
"""

from __future__ import annotations


def words(text: str) -> tuple[str, ...]:
    """The entries of a list that is written as one text."""
    return tuple(" ".join(word.split()) for word in text.split(","))


# Topics: names that fit behind "about". Together they are the {topic} of a question.

SCIENCE = words("""
    gravity, photosynthesis, rainbows, volcanoes, earthquakes, the water cycle, tides, lightning, clouds, evaporation,
    magnetism, friction, static electricity, sound waves, light, heat, atoms, molecules, acids, crystals, rust,
    fossils, genes, cells, bacteria, viruses, vaccines, the human heart, the lungs, the brain, the skeleton, muscles,
    digestion, sleep, dreams, memory, the five senses, evolution, food chains, ecosystems, coral reefs, deserts,
    glaciers, rivers, caves, the ozone layer, climate change, wind, hurricanes, snowflakes, seasons, eclipses,
    the moon, the sun, Mars, Saturn, comets, meteors, black holes, galaxies, stars, the speed of light, energy,
    inertia, density, pressure, erosion, soil, pollination, seeds, roots, mushrooms, mosses, the northern lights,
    quicksand, salt, water, oxygen, carbon dioxide, gold, iron, diamonds, probability, prime numbers, fractions,
    percentages, triangles, circles, averages, negative numbers, zero, square roots, symmetry
    """)
THINGS = words("""
    bicycles, elevators, the internet, batteries, airplanes, submarines, windmills, solar panels, refrigerators,
    microwave ovens, vacuum cleaners, telephones, cameras, telescopes, microscopes, thermometers, compasses, clocks,
    calendars, locks, bridges, tunnels, lighthouses, dams, trains, sailing boats, hot-air balloons, rockets,
    satellites, robots, computers, search engines, passwords, e-mail, video games, printing presses, pencils, paper,
    glass, plastic, concrete, bricks, soap, candles, matches, mirrors, umbrellas, buttons, zippers, shoes, money,
    banks, maps, libraries, museums, newspapers, radios, traffic lights, toothbrushes, eyeglasses, guitars, pianos,
    drums, violins, chess, football, swimming, juggling, kites, puzzles, postage stamps, recycling, compost, gardens
    """)
ANIMALS = words("""
    elephants, penguins, dolphins, whales, sharks, octopuses, jellyfish, sea turtles, frogs, salamanders, snakes,
    lizards, crocodiles, eagles, owls, hummingbirds, parrots, crows, ducks, chickens, bats, mice, squirrels, rabbits,
    hedgehogs, foxes, wolves, bears, polar bears, lions, tigers, cheetahs, giraffes, zebras, hippos, camels, horses,
    donkeys, cows, sheep, goats, pigs, dogs, cats, hamsters, goldfish, salmon, crabs, snails, earthworms, spiders,
    ants, bees, butterflies, dragonflies, fireflies, mosquitoes, beavers, otters, kangaroos, koalas, pandas, gorillas
    """)
FOODS = words("""
    bread, cheese, butter, yoghurt, milk, honey, chocolate, coffee, tea, rice, pasta, noodles, potatoes, tomatoes,
    onions, garlic, carrots, beans, lentils, spinach, pumpkins, apples, bananas, oranges, lemons, strawberries,
    grapes, olives, nuts, eggs, fish, soup, salad, pancakes, pizza, sandwiches, tacos, curry, dumplings, ice cream,
    cookies, popcorn, vinegar, pepper, cinnamon, vanilla, sugar, breakfast, picnics, vegetarian food
    """)
HISTORY = words("""
    the Roman Empire, ancient Egypt, ancient Greece, the Great Wall of China, the Silk Road, the Vikings,
    the Middle Ages, the Black Death, the Renaissance, the invention of printing, the Age of Discovery,
    the Inca Empire, the Aztecs, the Ottoman Empire, the French Revolution, the Industrial Revolution,
    the American Revolution, the American Civil War, the end of slavery, the First World War, the Second World War,
    the Cold War, the Berlin Wall, the moon landing, the Olympic Games, the history of writing,
    the history of numbers, the history of medicine, the history of farming, the history of railways,
    the history of computers, the history of flight, pyramids, castles, knights, samurai, pirates, explorers,
    cave paintings, the Stone Age, the Bronze Age, the Iron Age, the Phoenicians, the Mongol Empire,
    the Great Fire of London, the Gold Rush
    """)
IDEAS = words("""
    democracy, elections, laws, human rights, freedom of speech, taxes, inflation, trade, insurance, saving money,
    honesty, friendship, courage, kindness, patience, curiosity, trust, forgiveness, jealousy, stress, happiness,
    loneliness, teamwork, leadership, good habits, procrastination, homework, exams, reading, poetry, fairy tales,
    novels, jazz, classical music, painting, photography, theatre, dance, architecture, grammar, spelling, metaphors,
    proverbs, sign language, learning a language, volunteering, privacy, healthy eating, exercise, time management
    """)
TOPIC_LISTS = (SCIENCE, THINGS, ANIMALS, FOODS, HISTORY, IDEAS)
TOPICS = tuple(topic for one in TOPIC_LISTS for topic in one)

PLACES = words("""
    France, Spain, Italy, Greece, Portugal, Germany, Poland, Norway, Iceland, Ireland, Scotland, Turkey, Egypt,
    Morocco, Kenya, Ghana, Nigeria, Ethiopia, South Africa, Madagascar, India, Nepal, China, Japan, Korea, Vietnam,
    Thailand, Indonesia, Australia, New Zealand, Canada, Mexico, Cuba, Brazil, Peru, Chile, Argentina, Colombia,
    Alaska, Hawaii, Paris, London, Rome, Berlin, Vienna, Prague, Istanbul, Cairo, Nairobi, Mumbai, Beijing, Tokyo,
    Sydney, New York, Chicago, San Francisco, Lima, Toronto, the Alps, the Himalayas, the Andes, the Sahara,
    the Amazon, the Nile, the Danube, the Mississippi, the Mediterranean, the Baltic Sea, the Pacific Ocean,
    Antarctica, the Grand Canyon
    """)
PEOPLE = words("""
    Isaac Newton, Albert Einstein, Marie Curie, Charles Darwin, Galileo Galilei, Johannes Kepler, Ada Lovelace,
    Alan Turing, Nikola Tesla, Thomas Edison, Louis Pasteur, Florence Nightingale, Gregor Mendel, Archimedes, Euclid,
    Socrates, Aristotle, Confucius, Cleopatra, Julius Caesar, Marco Polo, Christopher Columbus, Leonardo da Vinci,
    Michelangelo, Vincent van Gogh, Frida Kahlo, Claude Monet, Johann Sebastian Bach, Wolfgang Amadeus Mozart,
    Ludwig van Beethoven, William Shakespeare, Jane Austen, Charles Dickens, Mark Twain, Leo Tolstoy, Homer,
    Johannes Gutenberg, Joan of Arc, George Washington, Abraham Lincoln, Mahatma Gandhi, Martin Luther King,
    Nelson Mandela, Rosa Parks, Harriet Tubman, Amelia Earhart, Neil Armstrong, Yuri Gagarin, Anne Frank, Jane Goodall
    """)
SKILLS = words("""
    bake bread, boil an egg, make pancakes, cook rice, make a salad, brew tea, plan meals for a week, set a table,
    wash wool, iron a shirt, sew on a button, tie a tie, clean a window, tidy a room, pack a suitcase, wrap a present,
    fold a paper boat, build a kite, paint a wall, hang a picture, change a light bulb, fix a flat tire,
    ride a bicycle, read a map, use a compass, light a campfire, put up a tent, swim, skate, juggle, play chess,
    play the guitar, learn the piano, draw a face, take good photos, write a poem, write a diary, write a short story,
    write a summary, give a speech, prepare for a job interview, write an application, make new friends, apologize,
    say no politely, listen well, calm down, fall asleep sooner, get up early, stop being late, study for an exam,
    take notes, learn new words, read faster, remember names, save money, keep a budget, choose a password,
    back up files, clean a keyboard, grow tomatoes, water house plants, plant a tree, make compost, train a dog,
    care for a cat, feed birds in winter, plan a birthday party, plan a trip, save energy at home, drink more water,
    start running, stretch after sport, treat a small cut, cool down on a hot day, find a good book,
    teach a child to read
    """)
JOBS = words("""
    a teacher, a nurse, a doctor, a baker, a carpenter, a plumber, an electrician, a farmer, a gardener, a pilot,
    a bus driver, a firefighter, a police officer, a judge, a lawyer, a librarian, a journalist, a photographer,
    a chef, a waiter, an architect, an engineer, a programmer, a biologist, a chemist, an astronomer, a mathematician,
    a translator, an actor, a musician, a painter, a tailor, a mechanic, a sailor, a postman, a veterinarian
    """)

# Tasks for a programmer, and what letters, facts and sums are about.

LANGUAGES = words("Python, Python, Python, JavaScript, Java, C, SQL, a shell script")
TASKS = words("""
    adds two numbers, reverses a string, finds the largest number in a list, counts the words in a text,
    counts the vowels in a word, tests whether a number is prime, tests whether a word is a palindrome,
    computes the factorial of a number, prints the first ten squares, prints a multiplication table, sorts a list,
    removes duplicates from a list, merges two sorted lists, finds the most frequent word, reads a file line by line,
    converts Celsius to Fahrenheit, rolls two dice, shuffles a list, computes the average of a list,
    finds a missing number, checks a password, turns a date into a weekday, computes the greatest common divisor,
    searches a sorted list, prints the Fibonacci numbers, draws a triangle of stars, flips a coin a hundred times,
    groups words by length, swaps two variables, keeps only the even numbers
    """)
CONCEPTS = words("""
    a variable, a loop, a function, a list, a dictionary, recursion, a class, an exception, a pointer, a stack,
    a queue, a hash table, a binary tree, sorting, binary search, a database, an index, a transaction, a thread,
    a unit test, version control, an API, a compiler, an operating system, encryption, a neural network,
    big O notation, a cache
    """)
RECEIVERS = words("""
    a friend, my grandmother, my neighbour, my teacher, my boss, a colleague, my landlord, a hotel, a restaurant,
    the city council, an online shop, my sister, my football coach, a new classmate, the library, my doctor
    """)
REASONS = words("""
    to say thank you for a present, to apologize for being late, to ask for a day off, to invite them to dinner,
    to complain about noise, to ask for a refund, to congratulate them on a success, to cancel an appointment,
    to ask for advice, to report a lost umbrella, to wish them a quick recovery, to say goodbye before a move,
    to ask for more time, to introduce myself, to recommend a book, to ask for opening hours, to praise their work
    """)
NUMBERS = tuple(str(number) for number in range(2, 200))
NAMES = words("""
    Lily, Tom, Mia, Ben, Anna, Sam, Lucy, Max, Ella, Tim, Rosa, Leo, Nora, Finn, Zoe, Jack, Amy, Omar, Ruby, Noah,
    Ida, Hugo, Maya, Otto, Lena, Ravi, Emma, Carlos, Sofia, Ken, Aisha, Paul, Grace, Ali, Hana, Oscar, Jane, Luis,
    Vera, Theo
    """)
GOODS = words("""
    apples, pencils, marbles, books, stickers, cookies, coins, eggs, flowers, tickets, bottles, chairs, balloons,
    shells
    """)
ADJECTIVES = words("""
    happy, sad, brave, shy, quick, slow, ancient, modern, bright, dark, quiet, noisy, gentle, rough, clever, generous,
    stubborn, curious, honest, lazy, fragile, enormous, tiny, bitter, polite, famous, lonely, calm, angry, tired
    """)
FACTS = words("""
    it opened in 1985, it was built of stone, it has four floors, it is closed on Mondays, children pay nothing,
    it stands beside a river, a storm damaged its roof, it was painted blue last year, forty people work there,
    a tram stops in front of it, its garden has a pond, visitors may borrow umbrellas, it lies on a hill,
    it won a prize in 2010, two cats live in its cellar, its clock is always five minutes late, it serves hot soup,
    a famous painter lived next door, it sells tickets online, it will move to a larger house next spring
    """)
BUILDINGS = words("""
    the museum, the library, the town hall, the old mill, the station, the theatre, the school, the market hall,
    the swimming pool, the bakery, the lighthouse, the hotel, the cinema, the hospital, the observatory, the toy shop
    """)

# Stories for small children.

CHARACTERS = words("""
    rabbit, fox, bear, mouse, cat, dog, puppy, kitten, duck, duckling, hen, rooster, goose, pig, cow, calf, horse,
    pony, donkey, goat, lamb, sheep, squirrel, hedgehog, beaver, otter, badger, mole, deer, wolf, raccoon, skunk,
    chipmunk, hamster, frog, toad, turtle, snail, lizard, snake, dragon, owl, robin, sparrow, crow, parrot, penguin,
    swan, stork, eagle, bat, bee, ant, ladybug, butterfly, caterpillar, spider, cricket, firefly, worm, fish,
    goldfish, whale, dolphin, octopus, crab, starfish, seal, shark, lion, tiger, elephant, giraffe, zebra, hippo,
    monkey, kangaroo, koala, panda, camel, crocodile, flamingo, peacock, ostrich, llama, reindeer, polar bear, girl,
    boy, baby, grandmother, grandfather, farmer, baker, sailor, king, queen, prince, princess, knight, robot, snowman,
    giant, fairy, teddy bear, doll, toy train, little cloud, little star, scarecrow, clown, mermaid, pirate,
    firefighter
    """)
OBJECTS = words("""
    red ball, blue balloon, kite, drum, whistle, bell, trumpet, guitar, music box, puzzle, picture book, crayon,
    pencil, paintbrush, box of colours, map, letter, key, lantern, candle, lamp, blanket, pillow, coat, scarf, hat,
    mitten, sock, boot, shoe, button, ribbon, necklace, ring, crown, mirror, clock, cup, spoon, bowl, teapot, basket,
    bucket, ladder, rope, shovel, hammer, wheel, wagon, sled, bicycle, scooter, little boat, paper plane, toy car,
    swing, tent, umbrella, suitcase, backpack, coin, treasure chest, shell, shiny stone, feather, leaf, acorn,
    pine cone, flower, rose, sunflower, apple, pear, cherry, carrot, pumpkin, potato, mushroom, egg, nest, cookie,
    cake, muffin, pancake, loaf of bread, jar of honey, bowl of soup, sandwich, ice cream, lollipop, bone, seed,
    magic wand, snowball, broken toy, telescope, camera, soap bubble, jump rope, block, doll house, fishing rod,
    watering can, bird house
    """)
SCENES = words("""
    in the forest, in a garden, in a small house, in a big castle, on a farm, in a barn, at the beach, by the sea,
    on an island, on a boat, under the sea, by a lake, at the pond, by the river, on a bridge, in a cave, on a hill,
    on top of a mountain, in the snow, in the desert, in the jungle, in a meadow, in a field, in an apple tree,
    in a tree house, in the park, at the playground, at school, in the kitchen, in the bedroom, in the bathroom,
    in the attic, in the cellar, at a birthday party, at the market, in a toy shop, in a bakery, in a library,
    in a museum, at the zoo, at the circus, at a fair, in a village, in a big city, on a busy street, on a train,
    on a bus, at the station, at the airport, in a hot-air balloon, on the moon, in the clouds, in a rocket,
    in a tiny nest, under a bed, behind the old wall, at grandmother's house, in a tent, at the campfire, on the ice,
    in the rain, at night, in a greenhouse, in a windmill
    """)
TRAITS = words("""
    happy, sad, brave, shy, kind, curious, clever, lazy, sleepy, hungry, lonely, proud, grumpy, gentle, funny, silly,
    noisy, quiet, tiny, big, old, young, lost, careful, careless, patient, impatient, honest, greedy, generous,
    jealous, helpful, messy, tidy, worried, scared, cheerful, stubborn, polite, playful, friendly, forgetful, fast,
    slow
    """)
EVENTS = words("""
    something important gets lost, it suddenly begins to rain, a strong wind blows something away, a friend is ill,
    two friends want the same thing, someone does not tell the truth, someone is left out of a game, a toy breaks,
    the way home is hard to find, a door will not open, someone falls into the water, night comes too early,
    a strange noise is heard, a stranger needs help, a present is missing, there is not enough food for all,
    someone is afraid of the dark, someone cannot sleep, a surprise goes wrong, a promise is forgotten,
    someone breaks a rule, a race is nearly lost, someone is too small to reach something, something smells very bad,
    the snow melts too soon, a nest falls out of a tree, someone gets stuck, a birthday is forgotten,
    someone tries something new, a secret is told, an old friend comes back, something very big blocks the way,
    someone is teased, someone eats too much, a mistake makes a big mess
    """)
ENDINGS = words("""
    they share what they have, they say sorry, they become friends, they learn to ask for help,
    they learn to be patient, they laugh about it together, they find a clever way, they go home happy,
    they help each other, they try once more
    """)
