"""What is known of the data sets before any file is looked at: where they come from, and their official split lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SplitList(NamedTuple):
    """What a list says of a split, whether or not its clips are on disk."""

    train: int  # clips
    test: int
    digest: str  # of which clip is on which side; "" where nobody who has the official list computed it


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
    missing: str = ""  # why clips of the lists may be absent; "" where all must be there
    mirroring: str = ""  # which classes turn into others when their clips are mirrored


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
    "kinetics400": DatasetInfo(
        title="Kinetics-400",
        layout="<youtube_id>_<start>_<end>.mp4 (six digits each) in any folders up to three deep, such as "
        "train/<label>/, val/<label>/, and {train,val,test}.csv beside them or in annotations/",
        source="mirror of the Common Visual Data Foundation (cvdfoundation/kinetics-dataset on GitHub): lists and "
        "videos; lists also on Google DeepMind's page 'Kinetics', videos also cut from YouTube by a crawler",
        unpack="not tried here, from the mirror's own scripts: unpack the archives of train, val and test with "
        "'tar zxf' into folders of these names in data/kinetics400, that of the replacements into replacement/, and "
        "put train.csv, val.csv and test.csv into data/kinetics400; folders per class are not needed",
        size="400 classes, clips of about 10 s of any size and rate; the mirror's lists name 246534 training and 19906 "
        "validation clips, its archives with the test clips take about 435 GiB",
        citation="Kay et al., The Kinetics Human Action Video Dataset, arXiv:1705.06950, 2017",
        licence="lists: Creative Commons Attribution 4.0; videos: their owners', from YouTube",
        missing="videos vanish from YouTube: what is not on disk is left out and counted, 'repro data verify "
        "kinetics400 --all-names' names it",
    ),
    "ssv2": DatasetInfo(
        title="Something-Something V2",
        layout="20bn-something-something-v2/<number>.webm and {labels,train,validation,test}.json, beside it or in "
        "labels/ or annotations/, with or without 'something-something-v2-' before their names",
        source="page 'Something-Something' of Qualcomm's AI data sets (before: TwentyBN), after registration: 20 "
        "archives of videos and one of labels",
        unpack="not tried here, from instructions that others follow: in data/ssv2 unzip the archives, then "
        "'cat 20bn-something-something-v2-?? | tar zx' makes 20bn-something-something-v2/; the labels unpack to "
        "labels/",
        size="174 classes, 220847 clips of some seconds, about 20 GB: 168913 training, 24777 validation, 27157 test",
        citation="Goyal et al., The 'something something' video database, ICCV 2017 (version 2: 2018)",
        licence="Qualcomm's data licence agreement for research use: read it before downloading",
        mirroring="a class with left or right in its name turns into the one with right or left in its place, if there "
        "is one: pulling, pushing, turning the camera",
    ),
    "folder": DatasetInfo(
        title="your own videos",
        layout="<class>/<video>, at least two classes; optional split.csv with lines path,train or path,test",
        source="you",
    ),
}

# Classes, and training and test clips of each split, as the official lists have them. UCF101 and HMDB51: computed from
# these lists. Kinetics-400: rows of the lists as counted in the mirror's arrange_by_classes.py. Something-Something V2:
# as cards of the data set state them.
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
    "kinetics400": (400, {"val": SplitList(246534, 19906, ""), "test": SplitList(246534, 39805, "")}),
    "ssv2": (174, {"val": SplitList(168913, 24777, ""), "test": SplitList(168913, 27157, "")}),
}
