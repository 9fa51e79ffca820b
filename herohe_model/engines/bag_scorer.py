"""A bag model in this process: an encoder that embeds patches, and the head that pools them."""

from __future__ import annotations

import os
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from herohe_model.encoders.golden import APART, apart
from herohe_model.encoders.table import TABLE_VARIABLE, find_encoder
from herohe_model.encoders.weights import LoadedWeights, load_weights
from herohe_model.engines.embedder import Embedder
from herohe_model.engines.remembered_encoders import recall_weights, remember_weights
from herohe_model.engines.scorer import Scorer
from herohe_model.errors import ModelFileError
from herohe_model.model.bag_model import BagModel, bag_of, load_bag_model
from herohe_model.model.card import ModelCard, card_of, open_model_file, read_header
from herohe_model.model.compute import AUTO, Compute
from herohe_model.model.machine import default_threads
from herohe_model.model.score import CompositeScore, Embeds, ScorerInfo, features_as_score


class BagScorer:
    """A bag model in this process; thread-safe. A context manager.

    Implements :class:`~herohe_model.model.score.CompositeScorer`.

    Parameters
    ----------
    model
        As :func:`~herohe_model.model.bag_model.load_bag_model` gives it.
    loaded
        The weights of its encoder.
    compute, threads
        As of :class:`~herohe_model.engines.embedder.Embedder`.

    Raises
    ------
    ModelFileError
        If the encoder is another one than the model learned from, or computes something else.
    """

    def __init__(
        self, model: BagModel, loaded: LoadedWeights, compute: Compute = AUTO, threads: int | None = None
    ) -> None:
        self._embedder = Embedder(loaded, compute, threads=threads)
        self.head = model
        self.threads = threads or default_threads()
        info = self._embedder.info
        try:
            _check_encoder(model.card, info.record.golden[0], loaded)
        except BaseException:
            self.close()
            raise
        self.info = ScorerInfo(
            model.card,
            model.sha256,
            info.device,
            info.precision,
            info.engine,
            Embeds(info.encoder.input_px, info.batch, loaded.sha256),
        )

    def submit(self, pixels: NDArray[np.uint8]) -> Future[CompositeScore]:
        """Embed a column of patches, (n * side, side, 3) uint8; see CompositeScorer."""
        self.info.check_shape(pixels.shape, str(pixels.dtype))
        side = self._embedder.info.encoder.input_px
        embedding = self._embedder.submit(pixels.reshape(-1, side, side, 3))
        future: Future[CompositeScore] = Future()

        def hand_on(done: Future[NDArray[np.float32]]) -> None:
            if done.cancelled() or not future.set_running_or_notify_cancel():
                future.cancel()
            elif (error := done.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(features_as_score(done.result()))

        embedding.add_done_callback(hand_on)
        future.add_done_callback(lambda ended: embedding.cancel() if ended.cancelled() else None)
        return future

    def close(self) -> None:
        """Cancel what has not begun, and end the thread; may be called twice."""
        self._embedder.close()

    def __enter__(self) -> BagScorer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


LoadedScorer = Scorer | BagScorer


def load_scorer(path: Path, compute: Compute = AUTO, threads: int | None = None) -> LoadedScorer:
    """Load a model file of either kind, as it scores in this process.

    Raises
    ------
    ModelFileError
        If the file cannot be used; of a bag model also if its encoder's weights are not on this machine.
    DeviceError
        If the device, or the engine that is named, is not there.
    """
    with open_model_file(path) as file:
        card = card_of(read_header(file, path.stat().st_size, path), path)
    if card.bag is None:
        return Scorer.load(path, compute, threads)
    model = load_bag_model(path)
    return BagScorer(model, encoder_weights(model.card), compute, threads)


def encoder_weights(card: ModelCard) -> LoadedWeights:
    """Find and read the weights of a bag model's encoder on this machine; nothing is fetched.

    Those that were used here before are known by their digest, wherever they are; others by the encoder's
    name, in the cache of the Hugging Face hub.

    Raises
    ------
    ModelFileError
        If there are none, or others than the model learned from.
    OptionError
        If no table has the encoder.
    """
    spec = bag_of(card)
    known = recall_weights(spec.encoder_sha256) if spec.encoder_sha256 else None
    if known is not None and Path(known.path).is_file():
        loaded = load_weights(known.encoder, Path(known.path))
    else:
        table = os.environ.get(TABLE_VARIABLE)
        encoder = find_encoder(spec.encoder, Path(table) if table else None)
        try:
            loaded = load_weights(encoder)
        except ModelFileError as error:
            remedy = f"herohe-bridge encoder verify {spec.encoder} --weights FILE"
            raise ModelFileError(
                f"{card.name} sees patches through {spec.encoder}. {error.problem}",
                f"{error.remedy.partition(';')[0]}; or say where they are, once: {remedy}"
                if encoder.source
                else f"Say where they are, once: {remedy}",
            ) from error
    if spec.encoder_sha256 not in ("", loaded.sha256):
        raise ModelFileError(
            f"{card.name} learned from {spec.encoder} with the weights {spec.encoder_sha256[:12]}, and "
            f"{loaded.path} has {loaded.sha256[:12]}",
            f"Say where its own are, once: herohe-bridge encoder verify {spec.encoder} --weights FILE",
        )
    remember_weights(loaded)
    return loaded


def _check_encoder(card: ModelCard, golden: tuple[float, ...], loaded: LoadedWeights) -> None:
    spec = bag_of(card)
    if spec.dimension != len(golden):
        raise ModelFileError(
            f"{card.name} learned from {spec.dimension} numbers a patch, and {loaded.encoder.name} gives "
            f"{len(golden)}",
            "Use the encoder that its card names",
        )
    if not spec.encoder_golden:
        return
    far = apart(np.array([golden]), np.array([spec.encoder_golden]))
    if not far <= APART:
        raise ModelFileError(
            f"{loaded.encoder.name} ({loaded.path}) gives features here that are {far:.2g} of their length "
            f"from those that {card.name} learned from: normalisation, architecture or timm are others",
            f"The model was made with {card.versions or 'versions it does not name'}: use those",
        )
