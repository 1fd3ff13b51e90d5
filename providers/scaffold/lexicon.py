"""The words that the rules know, English and a little German. Data only."""

from __future__ import annotations


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _pairs(words: str) -> dict[str, str]:
    first = words.split()
    return dict(zip(first[::2], first[1::2], strict=True))


PLURALS = _pairs(
    """
    person people    child children   man men         woman women       mouse mice      movie movies
    cookie cookies   calorie calories cache caches    quiz quizzes      bus buses       status statuses
    bonus bonuses    campus campuses  virus viruses   leaf leaves       shelf shelves   hero heroes
    potato potatoes  tomato tomatoes  analysis analyses
    notiz notizen    aufgabe aufgaben buch buecher    termin termine    rezept rezepte  produkt produkte
    kunde kunden     rechnung rechnungen              bestellung bestellungen
    """
)
UNCOUNTABLE = _set(
    """
    data equipment feedback information inventory media metadata money music news series software
    species staff weather benutzer nutzer artikel
    """
)

# Names that mean something in the generated modules, or to Python, pydantic or SQLAlchemy.
TAKEN_FIELDS = _set(
    """
    id abs all any bin bool bytes callable chr compile complex construct copy date datetime dict dir
    eval exec exit fields filter float format frozenset getattr globals hash help hex input int iter
    json len license list locals map max metadata min next object oct open ord pow print property range
    registry repr reversed round schema set slice sorted str sum super tuple type validate vars zip
    """
)
TAKEN_CLASSES = _set(
    """
    Annotated Any APIRouter Base BaseModel Body Boolean Column ConfigDict DeclarativeBase Depends
    Ellipsis Engine Exception FastAPI Field Float ForeignKey Integer IntegrityError Iterator
    JSONResponse Mapped NotFoundError Number Page Path Payload Query Request Row RowId Select Sequence
    Session SessionDep String TestClient Text TypeVar Warning
    """
)
TAKEN_VARIABLES = _set("app client owner page payload q repository request router row session status")

APP = _set(
    """
    anwendung api apis app application backend catalog catalogue crud database demo dienst example list
    liste management manager microservice organizer planner platform program programm project server
    service services site software store system tool tracker verwaltung website
    """
)
GENERIC = _set(
    """
    async backend basic clean complete crud digital einfache einfaches fastapi full good great http json
    kleine kleines minimal modern my neue new nice online our personal production pydantic python ready
    rest restful simple small sqlalchemy sqlite tiny typed web
    """
)
STOPS = _set(
    """
    a add all also an and any are as at attributes auf aus baue be build by can columns create das der
    design details develop die do docs does each ein eine einen einer endpoint endpoints erstelle every
    features fields files for from für generate has have her his i im implement in include includes
    including into is it its let lets lines make me mit must need needs no not of on one ones only
    options or per please provide requests requirements routes schreibe should some stuff support
    supporting supports tests that the their them there these they things this to und use users' uses
    using via von want was we when where which who will with without write you zum zur
    """
)
THEMES = _pairs(
    "blog post    shop product    bookshop book    bookstore book    library book    todolist todo"
)
FAMILIAR = _set("book product item event recipe movie order expense bookmark")

NOTE_LIKE = _set("note notiz post article message comment memo page document entry story artikel")
TASK_LIKE = _set("task todo reminder chore aufgabe todo_item")
PERSON_LIKE = _set("user author customer contact member person student employee teacher kunde benutzer")

TYPE_WORDS = _pairs(
    """
    str string   string string   varchar string   text text    longtext text     markdown text
    int integer  integer integer float number     number number   decimal number   double number
    bool boolean boolean boolean flag boolean     date date    datetime datetime timestamp datetime
    """
)
FIELD_NAMES = _set(
    """
    address age amount author autor beschreibung bio body category city color comment completed content
    count country created_at date deadline description done due_date email end_date erledigt first_name
    inhalt isbn jahr label last_name location message name notes password phone phone_number preis price
    priority quantity rating sku slug start_date status stock summary tags text title titel updated_at
    url username year
    """
)
ARTICLES = _set("a an das dem den der die ein eine einem einen einer her his its one some the their this")
FIELD_QUALIFIERS = _set("field optional optionally required unique")
FIELD_ENDS = _set(
    """
    adds are as at auf but by can create creates deletes für gets i if in into is it lists may mit must
    of on per plus reads removes return returns saved should so stored support supports that then they
    through to updates use uses using via von was we when where which who will with within without you
    zu for from
    """
)
NOT_FIELDS = _set(
    """
    api apis app application auth authentication backend crud css database delete docker docs
    documentation endpoint endpoints error errors fastapi filtering following frontend get handling html
    http interface json jwt many method methods multiple mysql openapi pagination patch persistence post
    postgres postgresql put pydantic python readme redis relationship relationships rest route routes
    search several sorting sqlalchemy sqlite storage swagger test tests unit validation
    """
)
