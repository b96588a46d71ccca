"""What is known of the data sets before any file is looked at: where they come from, and their official split lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SplitList(NamedTuple):
    """What a list says of a split, whether or not its clips are on disk."""

    train: int  # clips
    test: int
    digest: str  # of which clip is on which side


@dataclass(frozen=True)
class DatasetInfo:
    """What a person needs to know before getting a data set."""

    title: str
    layout: str  # expected under the data root, one line
    source: str
    unpack: str = ""  # how to get from the download to the layout
    size: str = "any"
    citation: str = "none"
    licence: str = "yours to know"


DATASETS: dict[str, DatasetInfo] = {
    "motionshapes": DatasetInfo(
        title="motionshapes, the embedded diagnostic data set",
        layout="nothing: the folder is made and videos are rendered when first needed",
        source="rendered by repro.data.motionshapes",
        size="some tens of MB once rendered",
        licence="this project's",
    ),
    "weizmann": DatasetInfo(
        title="Weizmann, Actions as Space-Time Shapes",
        layout="<person>_<action>.avi, flat or in a folder per action, with or without manifest.csv (path, split)",
        source="project page 'Actions as Space-Time Shapes' of the Weizmann Institute, one archive per action",
        size="10 classes, 9 people, 90 clips (93 with the second takes of lena), 180x144, 25 fps",
        citation="Gorelick et al., Actions as Space-Time Shapes, PAMI 2007 (Blank et al., ICCV 2005)",
        licence="no licence stated: research use with citation, do not redistribute",
    ),
    "ucf101": DatasetInfo(
        title="UCF101",
        layout="<Class>/v_<Class>_g01_c01.avi (or inside UCF-101/) and ucfTrainTestlist/{classInd,trainlist01,...}.txt",
        source="UCF101 page of the Center for Research in Computer Vision (University of Central Florida): UCF101.rar "
        "and the zip 'Train/Test Splits for Action Recognition'",
        unpack="in data/ucf101: 'unrar x UCF101.rar' makes UCF-101/ with a folder per class, unzipping the other "
        "file makes ucfTrainTestlist/; leave both as they are",
        size="101 classes, 13320 clips, 320x240, 25 fps, 6.5 GB; split 1: 9537 training and 3783 test clips",
        citation="Soomro et al., UCF101, CRCV-TR-12-01, 2012",
        licence="no licence stated, videos from YouTube: research use with citation",
    ),
    "hmdb51": DatasetInfo(
        title="HMDB51",
        layout="<class>/<video>.avi (or inside hmdb51_org/) and testTrainMulti_7030_splits/<class>_test_split1.txt ...",
        source="HMDB project page of the Serre Lab (Brown University): hmdb51_org.rar and test_train_splits.rar",
        unpack="in data/hmdb51: 'unrar x hmdb51_org.rar' makes 51 more archives, one per class (rar inside rar); "
        "then 'for f in *.rar; do unrar x -o- \"$f\"; done' makes a folder per class and, of test_train_splits.rar, "
        "testTrainMulti_7030_splits/; after that the archives may go",
        size="51 classes, 6766 clips, 240 px high, 30 fps, 2 GB; each split 3570 training and 1530 test clips",
        citation="Kuehne et al., HMDB: A Large Video Database for Human Motion Recognition, ICCV 2011",
        licence="Creative Commons Attribution 4.0 according to its page; videos from films and the web",
    ),
    "folder": DatasetInfo(
        title="your own videos",
        layout="<class>/<video>, at least two classes; optional split.csv with lines path,train or path,test",
        source="you",
    ),
}

# Classes, and training and test clips of each split, as the two official sets of lists have them.
OFFICIAL: dict[str, tuple[int, dict[str, SplitList]]] = {
    "ucf101": (
        101,
        {
            "1": SplitList(9537, 3783, "491d8cc34190a010"),
            "2": SplitList(9586, 3734, "a0c23843a2a46f18"),
            "3": SplitList(9624, 3696, "be7b59ad091b77d2"),
        },
    ),
    "hmdb51": (
        51,
        {
            "1": SplitList(3570, 1530, "98f525db3b25ee78"),
            "2": SplitList(3570, 1530, "c05b08b9e1562467"),
            "3": SplitList(3570, 1530, "72584e048db90c86"),
        },
    ),
}
