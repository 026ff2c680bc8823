"""Write the demo's dataset: customer-support tickets with the route each one belongs to.

    python tools/tiny_models/make_tickets.py [--rows 2400] [--seed 7] [--out examples/tickets/tickets.jsonl]

The tickets are generated, not collected: an invented shop for household devices with an app and a membership. The
same arguments always give the same bytes. What makes the task a task:

* each route has many ways to say its matter, and neighbouring routes share their words (a charge for a membership, a
  parcel on its way back, an app that forgets the password);
* some tickets also mention another route's matter, in passing or told in full, as settled or beside the point;
* lengths, greetings, capitals and typing mistakes vary as they do in a mailbox.

No two tickets are the same wording with other slots filled in, so that held-out rows are really unseen.
"""

# The phrases read best one to a line, however long.
# ruff: noqa: E501
from __future__ import annotations

import argparse
import json
import random
import re
from pathlib import Path

ROUTES = ("account", "billing", "feedback", "product", "returns", "shipping", "subscription", "technical")
#: Share of the tickets that also mention another route's matter.
OTHER_MATTERS = 0.15

SYSTEM = "Route the ticket to one team. Answer with its name only: " + ", ".join(ROUTES) + "."


def _list(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


SLOTS: dict[str, tuple[str, ...]] = {
    "item": _list(
        "kettle,desk lamp,toaster,fan heater,blender,speaker,headset,keyboard,air purifier,vacuum,coffee grinder,"
        "bathroom scale,alarm clock,camera,doorbell,power bank,rice cooker,humidifier,projector,router"
    ),
    "colour": _list("black,white,grey,blue,green,red,silver"),
    "plan": _list("Basic,Plus,Family,Premium,Student"),
    "day": _list("Monday,Tuesday,Wednesday,Thursday,Friday,Saturday,Sunday"),
    "month": _list("January,February,March,April,May,June,July,August,September,October,November,December"),
    "person": _list("Ana,Bram,Chloe,Dev,Elif,Farid,Gwen,Hiro,Inga,Jonas,Kemi,Luis,Mira,Nils,Oona,Priya"),
    "city": _list("Leeds,Cork,Graz,Malmo,Porto,Ghent,Lodz,Brno,Turku,Bilbao,Dresden,Nantes,Parma,Basel"),
    "who": _list("wife,husband,son,daughter,mother,father,flatmate,neighbour,boss,colleague"),
    "few": _list("two,three,four,five,six,ten"),
    "unit": _list("days,weeks,months"),
}

#: route -> ways to say the matter. [a|b] picks one; {slot} is filled in.
MATTERS: dict[str, tuple[str, ...]] = {
    "billing": (
        "[I was charged|You charged me|my card was debited] [twice|two times] for [the same {item}|order {order}|one {item}]",
        "there is a [charge|debit|payment] of {amount} on my [statement|card|bank account] that I [do not recognise|cannot explain|never agreed to]",
        "the [total|amount] on [the invoice|my bill|the receipt] is [wrong|higher than the price I saw|not what the page said]",
        "I need [an invoice|a proper receipt|a bill] [with our VAT number|made out to my company|for my tax office] for [order {order}|the {item}]",
        "[the discount code|my voucher|the gift card] was [not taken off|ignored|not applied] and I paid the full {amount}",
        "my [card|payment] [keeps being|was] [declined|rejected] [at the checkout|when I try to pay] although there is [enough money|nothing wrong with it]",
        "[can|could] I pay [in instalments|by bank transfer|with two cards|by direct debit] [instead|for the {item}]",
        "[the refund|the money] you promised [on {day}|in {month}|{few} {unit} ago] [has not reached my bank|is still not on my card|never turned up]",
        "[why|please explain why] [did you take|was I asked for] {amount} [more than last time|on top of the price|as a fee]",
        "[which|what] [currency|exchange rate] [do you charge in|was used], [my bank shows {amount}|the sum on my statement looks odd]",
        "you [took|debited] {amount} [before anything was sent|for a membership I never joined|after the plan had ended]",
        "[the tax|VAT] was [added twice|calculated for the wrong country] on [order {order}|my last bill]",
        "[I'd like|we want] [a copy of all invoices|a yearly statement|the payment confirmation] [for {month}|for our books|for this year]",
    ),
    "shipping": (
        "[where is|any news about|what happened to] [my order|my parcel|order {order}|the {item} I bought]",
        "the [tracking page|tracking link|courier's site] has [said the same thing|not moved|shown nothing new] [since {day}|for {few} days]",
        "[it was|my {item} was] [supposed to|meant to] [arrive|be here] [on {day}|{few} days ago] and [nothing came|it still has not|I am still waiting]",
        "[can you|please] [send it to|change the destination to|redirect it to] [another address|my office|{city}] [instead|before it leaves the warehouse]",
        "the [courier|driver] [left it with|handed it to] [a neighbour I don't know|somebody at number {n}|the wrong house]",
        "[it says delivered|the app claims it was handed over|somebody signed for it] but [there is nothing here|I never got it|our porch is empty]",
        "[do you|can you] [deliver|send things] to [{city}|a parcel locker|an island|a PO box], [and how long does it take|and by when]",
        "only [one of the {few} boxes|half of my order|the {item}] [arrived|came|was in the van], [the rest is missing|where is the other part]",
        "the [box|parcel] [was crushed|came open|was soaked] [on the way|when the driver brought it]",
        "[how much is|what do you ask for] [express|next day|Saturday] [delivery|dispatch] to [{city}|my postcode]",
        "[customs|the border office] [is holding|has kept] [my parcel|order {order}] [for {few} {unit}|and wants papers from you]",
        "[could it come|can you bring it] [on {day}|after {n} o'clock|in the evening] because [nobody is at home|we are away]",
        "you [posted|sent] it to [my old flat|the wrong street|{city}] [although|while] I [gave|typed in] the new address",
    ),
    "returns": (
        "I [want to|would like to|need to] [send back|return|give back] the {item} [I got on {day}|because it is too big|as I changed my mind]",
        "[it is not|the {item} is not] [what I expected|the one in the picture|my size], [how do I send it back|can I return it]",
        "you sent [the wrong colour|a {colour} one instead of {colour}|somebody else's {item}], [I'd like to swap it|please exchange it]",
        "[can I|am I allowed to] [exchange|swap] the {item} for [a {colour} one|the larger one|another model]",
        "[how many days|how long] do I have to [bring something back|change my mind|send the {item} back]",
        "I [need|have not received|cannot print] [a return label|the label for the way back|the form to send it back]",
        "[I opened the box already|the seal is broken], [can it still go back|do you still take it back]",
        "[my|the] [gift|present] was [a double|not liked|the wrong kind], [may I hand it in|will you take it back] [without a receipt|at the shop]",
        "I [dropped off|posted] the {item} [on its way back to you|to your depot] [on {day}|{few} days ago], [did you get it|has it been checked in]",
        "[who pays|do I pay] [the postage|for the parcel] [back to you|if I don't keep the {item}]",
        "the {item} [arrived broken|came with a crack|was dead out of the box] and I want [a new one|to hand it back|a replacement]",
        "[somebody|the driver] was to [collect|pick up] the [old|unwanted] {item} [on {day}|this week] [but never came|and did not show up]",
        "I [ordered|bought] {few} of them by mistake and [only want to keep one|wish to give the others back]",
    ),
    "account": (
        "[I can't|I cannot|I am unable to] [log in|sign in|get in] [any more|since {day}|with my password]",
        "the [reset link|reset mail|code by text] [never arrives|does not come|has expired each time]",
        "[please|can you] [change|correct] [my email address|the phone number|my last name] [in my profile|that you have on file]",
        "[I want you to|please] [delete my data|erase my profile|close my account] [for good|under the privacy law]",
        "[someone|a stranger] [logged in as me|got into my profile|changed my password] [from {city}|last night]",
        "[I have|there are] two [accounts|profiles] [by accident|under different addresses], [can you merge them|please join them]",
        "my [profile|account] is [locked|blocked|suspended] after [too many tries|{few} wrong passwords]",
        "[how do I|where can I] [switch on|turn off] [two step login|the login code|the fingerprint sign-in]",
        "I [lost|no longer have] the [phone|number|mailbox] that [gets the codes|you send the code to]",
        "[please send me|I'd like to see] [all the data|everything] you [store|keep] about me",
        "my {who} [needs|should have] [access to|a login for] [our account|my profile] [too|as well]",
        "[your form|the page] says [my email is already taken|this user exists|the name is in use] [when I register|when I sign up]",
        "[stop sending|I still get] [newsletters|advertising mails], [change that setting|take my address off the list]",
    ),
    "technical": (
        "the {item} [will not|does not|refuses to] [switch on|start|charge] [any more|since {day}|after {few} {unit}]",
        "the app [crashes|freezes|closes itself] [when I open it|on the second screen|after the update]",
        "the {item} [won't connect|keeps losing the connection|is not found] [to the wifi|by my phone|over bluetooth]",
        "[there is|I see|it shows] [an error {n}|a blinking red light|error code {n}] on the {item}",
        "[since the last update|after the firmware update], the {item} [is very slow|makes a strange noise|ignores the buttons]",
        "the {item} [gets very hot|smells burnt|hums loudly] [after ten minutes|whenever I use it]",
        "[how do I|what is the trick to] [reset|pair|restart] the {item}, [the manual does not help|the steps do nothing]",
        "the [screen|display] of the {item} [stays black|flickers|shows only half]",
        "your [site|website|page] [shows a blank screen|does not load|hangs] [in my browser|on my phone]",
        "the [battery|charger] [drains in an hour|is empty at once|no longer holds]",
        "the [timer|schedule|sensor] [forgets its settings|is off by an hour|jumps back] [every night|by itself]",
        "[voice control|the remote|the motion alarm] [does not react|stopped reacting|only works now and then]",
        "[it keeps|the {item} keeps] [restarting|beeping|switching itself off] [in the middle of the night|for no reason]",
    ),
    "subscription": (
        "I [want to|would like to] [cancel|end|stop] [my membership|the {plan} plan|the monthly plan] [before it renews|from {month} on]",
        "[please|can you] [move me|switch me] from {plan} to [the cheaper plan|{plan}|the yearly plan]",
        "[can I|is it possible to] [pause|freeze] [my membership|the plan] [while I am abroad|for {few} {unit}]",
        "[when|on which day] does [my plan|the membership|the trial] [renew|end|run out]",
        "[I thought|you said] [the free trial|the trial month] [would end by itself|needed no cancelling] and now [I am a member|it has renewed]",
        "what [is included in|do I get with] the {plan} [plan|membership] [compared to {plan}|that {plan} lacks]",
        "[can I add|how do I add] my {who} to [the {plan} plan|our membership]",
        "[I cancelled|I stopped the plan] [in {month}|{few} {unit} ago] but [it is still active|it was renewed anyway|the page says active]",
        "[is there|do you offer] a [student|senior|yearly] [rate|plan] [for members|for the membership]",
        "my [{plan} membership|plan] [disappeared|shows as expired], although it [runs until {month}|was just renewed]",
        "[where is|I cannot find] the [button|page] to [upgrade|downgrade|leave the membership]",
        "[restart|renew|reactivate] my [old membership|{plan} plan] [please|if that is possible]",
        "[how much notice|how many days of notice] [must I give|do you need] to [leave|quit the plan|end the contract]",
    ),
    "product": (
        "does the {item} [work with|fit|support] [a 110 volt socket|an older phone|other brands|both systems]",
        "[is the {item}|when is the {item}] [back in stock|available in {colour}|on sale again]",
        "[what is|can you tell me] the [weight|size|noise level|power draw] of the {item}",
        "[which|what] {item} [would you recommend|suits] [for a small flat|for a family of {few}|for my {who}]",
        "[what is the difference|how do I choose] between the [small|old|{colour}] {item} and the [large|new|{colour}] one",
        "[is|are] [the filter|a cable|spare parts] [included with|in the box of|sold for] the {item}",
        "[how long is|what is] the [guarantee|warranty] on the {item}, [before I buy it|I am thinking of getting one]",
        "[can I|is it safe to] [use the {item} outdoors|leave the {item} on all night|wash the parts in a dishwasher]",
        "[do you have|will there be] a [smaller|quieter|wireless|{colour}] [version|model] of the {item}",
        "[where are they|where is the {item}] made, and [is it free of plastic|what is it made of]",
        "[how loud|how fast|how heavy] is the {item} [compared to others|in daily use]",
        "[does|will] the {item} [need an app|run without the internet|take normal batteries]",
        "[do you sell|where can I get] [a lid|a bag|a second charger|a stand] [for the {item}|that fits the {item}]",
    ),
    "feedback": (
        "[I just want to say|let me say] that [your colleague {person}|the lady on the phone|the man in the shop] was [wonderful|so patient|very kind]",
        "[I am very happy|we are delighted] with the {item}, [keep it up|great work|well done]",
        "[it would be nice if|you should think about letting] [the app had a dark mode|I could rate items|the shop opened on {day}]",
        "[your new website|the new layout|the redesign] is [a step back|hard to read|much better than before]",
        "[I was kept waiting|I waited] {n} minutes [on the phone|in the queue] and [then was cut off|nobody apologised], [that is not good service|this is how you lose people]",
        "[your colleague|the person at the desk] was [rude|short with me|not interested], [I expected better|please talk to him]",
        "[an idea for you|a suggestion]: [sell a {colour} {item}|use less plastic in your boxes|print the manual in larger letters]",
        "[five stars|ten out of ten|thumbs up] for [the quick help|the packaging|the {item}]",
        "[I miss|please bring back] the [old|{colour}] {item}, [it was the best you had|everybody liked it]",
        "[the music while waiting|the survey after each call|so much packing paper] is [annoying|too much|really not needed]",
        "[I told all my friends|my {who} keeps telling everybody] [about your shop|how good the {item} is]",
        "[sadly|honestly], [the quality has gone down|you used to be better|I am disappointed in the shop] [this year|since {month}]",
        "[thank you|many thanks] for [sorting things out so fast|the handwritten card|going the extra mile] [last week|on {day}]",
    ),
}

#: route -> how its matter is mentioned in passing, in tickets that are about something else.
IN_PASSING: dict[str, tuple[str, ...]] = {
    "billing": ("The invoice was fine.", "I paid by card, that went through.", "I got the refund for the other one, thanks.",
                "The price was right this time.", "This is not about the {amount} you charged, that is settled."),
    "shipping": ("The parcel came on {day}, no complaints there.", "Delivery was quick.", "The courier was on time.",
                 "It arrived in {city} without trouble.", "Tracking worked well by the way."),
    "returns": ("I don't want to send it back.", "I returned the other {item} last {day}, that is done.",
                "No need for an exchange.", "The label for the return worked.", "Please don't offer me a replacement."),
    "account": ("My login works.", "I already changed my password.", "My profile is up to date.",
                "I am logged in as usual.", "The login code came at once."),
    "technical": ("The {item} works fine.", "The app runs well now.", "The error from last week is gone.",
                  "It is connected to the wifi and all.", "No technical trouble so far."),
    "subscription": ("I am a {plan} member.", "My plan runs until {month}.", "I do not want to cancel the membership.",
                     "We have had the {plan} plan for {few} {unit}.", "The membership was renewed, that is alright."),
    "product": ("I know the size and the weight.", "The {colour} version is the one I have.", "I read about the warranty already.",
                "It is the model with the larger filter.", "I saw that the {item} is back in stock."),
    "feedback": ("I like your shop.", "Your colleague {person} was friendly.", "The new website looks good.",
                 "I have always been happy with you.", "Apart from that, well done."),
}  # fmt: skip

#: another route's matter told in full, and that it is not (or no longer) the point.
SETTLED = (
    "Last week I wrote this to you: {matter}. That is solved.", "My mail of {day} said: {matter}. Forget that, it is sorted.",
    "My {who} once had this: {matter}. That is not my case.", "Your colleague {person} took care of the other thing ({matter}).",
    "I know that many people write to you like this: {matter}. I don't.", "Before you ask: no, it is not that {matter}.",
    "In {month} it was: {matter}. That is over and done with.", "{person} will write to you on her own: {matter}.",
)  # fmt: skip
GREETINGS = (
    "Hi,",
    "Hello,",
    "Hello there,",
    "Dear team,",
    "Good morning,",
    "Hey",
    "Hi team,",
    "To whom it may concern,",
    "Good evening,",
)
CONTEXTS = (
    "I bought a {item} from you in {month}.", "My order number is {order}.", "It is about order {order}.", "I am writing from {city}.",
    "My {who} ordered a {item} last {day}.", "I have been a customer for {few} years.", "We use the {item} at work.",
    "I rang on {day} but nobody picked up.", "This is the second time I write.", "I got the {item} as a present.",
    "We moved to {city} in {month}.", "I am not very good with these things.", "I asked my {who}, who did not know either.",
)  # fmt: skip
CLOSINGS = (
    "Thanks, {person}", "Please help.", "Thank you!", "Regards, {person}", "Please answer soon.", "Cheers", "I look forward to your reply.",
    "Can somebody look into this?", "It is rather urgent.", "No hurry.", "Let me know.", "Best wishes, {person} from {city}", "What now?",
)  # fmt: skip
BRIDGES = (
    "",
    "",
    "",
    "Now, ",
    "Well, ",
    "So, ",
    "The thing is: ",
    "My question: ",
    "Anyway, ",
    "Here is the matter: ",
    "To be short, ",
)


def pick(rng: random.Random, text: str) -> str:
    """Choose one of each [a|b]."""
    return re.sub(r"\[([^\]]*)\]", lambda m: rng.choice(m.group(1).split("|")), text)


def fill(rng: random.Random, text: str) -> str:
    """Put values into the slots."""

    def value(match: re.Match[str]) -> str:
        slot = match.group(1)
        if slot == "order":
            return rng.choice(("#", "no. ", "")) + str(rng.randint(10_000, 99_999))
        if slot == "amount":
            return f"{rng.randint(4, 240)}.{rng.choice(('00', '49', '50', '90', '99'))}"
        if slot == "n":
            return str(rng.randint(3, 79))
        return rng.choice(SLOTS[slot])

    return re.sub(r"\{(\w+)\}", value, text)


def typo(rng: random.Random, text: str) -> str:
    """Two or three hurried keystrokes."""
    letters = list(text)
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(1, len(letters) - 1)
        if not (letters[i].isalpha() and letters[i + 1].isalpha()):
            continue
        kind = rng.randrange(3)
        if kind == 0:
            letters[i], letters[i + 1] = letters[i + 1], letters[i]
        elif kind == 1:
            letters[i] = ""
        else:
            letters[i] *= 2
    return "".join(letters)


def sentence(text: str) -> str:
    """Capital letter and full stop (or question mark)."""
    asks = re.match(
        r"(where|what|which|how|when|why|who|can|could|do|does|is|are|am|will|may|any)\b", text, re.IGNORECASE
    )
    mark = "?" if asks or re.search(r", (how|can|may|will|where|did|has|do) [^,]*$", text) else "."
    return text[0].upper() + text[1:] + mark


def join(bridge: str, text: str) -> str:
    """Put the bridge before the sentence, which then begins with a small letter unless it begins with "I"."""
    return text if not bridge or re.match(r"I\b", text) else bridge + text[0].lower() + text[1:]


def compose(rng: random.Random, route: str) -> tuple[str, str]:
    """(wording with empty slots, finished text) of one ticket."""
    bridge = rng.choice(BRIDGES)
    matter = pick(rng, rng.choice(MATTERS[route]))
    body = [join(bridge, sentence(matter))]
    second, chance = rng.choice([r for r in ROUTES if r != route]), rng.random()
    if chance < OTHER_MATTERS / 2:
        body.insert(rng.randrange(2), rng.choice(IN_PASSING[second]))
    elif chance < OTHER_MATTERS:
        body.insert(rng.randrange(2), rng.choice(SETTLED).replace("{matter}", pick(rng, rng.choice(MATTERS[second]))))
    for _ in range(rng.choice((0, 0, 0, 1))):
        body.insert(rng.randrange(len(body)), rng.choice(CONTEXTS))
    if rng.random() < 0.5:
        body.insert(0, rng.choice(GREETINGS))
    if rng.random() < 0.5:
        body.append(rng.choice(CLOSINGS))
    wording = " ".join(body)
    text = fill(rng, wording)
    if rng.random() < 0.25:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip(".?!")
    if rng.random() < 0.35:
        text = typo(rng, text)
    return wording.lower(), text


def tickets(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` (text, route) pairs, routes nearly even, every wording used once."""
    rng = random.Random(seed)
    texts: set[str] = set()
    rows: list[tuple[str, str]] = []
    while len(rows) < count:
        route = rng.choice(ROUTES)
        wording, text = compose(rng, route)
        if wording in texts:
            continue
        texts.add(wording)
        rows.append((text, route))
    return rows


def row(text: str, route: str) -> str:
    """One chat row as a JSON line."""
    roles = ("system", SYSTEM), ("user", text), ("assistant", route)
    return json.dumps({"messages": [{"role": r, "content": c} for r, c in roles]}, ensure_ascii=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=2400)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "examples/tickets/tickets.jsonl")
    args = parser.parse_args()
    rows = tickets(args.rows, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("".join(row(*item) + "\n" for item in rows), encoding="utf-8", newline="\n")
    counts = {route: sum(r == route for _, r in rows) for route in ROUTES}
    print(f"{args.out}: {len(rows)} tickets; " + ", ".join(f"{route} {n}" for route, n in counts.items()))


if __name__ == "__main__":
    main()
