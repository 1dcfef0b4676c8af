"""Talk with a trained model at the terminal: `python -m common.chat outputs/dialogue-demo`.

Lines that start with a slash are commands: /reset forgets the dialogue, /system TEXT sets the system message and
forgets the dialogue, /exit ends (so does Ctrl-D). Ctrl-C stops a reply.
"""

import argparse
import sys
from pathlib import Path

from common.data import RowError
from common.dialogues import encode_prompt
from common.errors import UserError, install_error_hook
from common.garbage import settle_imports
from common.hub import HUB_ERRORS
from common.models import choose_device, load_result

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

COMMANDS = "/reset, /system TEXT, /exit"


def load_chat_model(directory: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a result directory or of a hub id, ready to reply."""
    path = Path(directory).expanduser()
    if not path.is_dir() and (path.exists() or directory.count("/") != 1):
        raise UserError(f"{directory}: no such directory; give the output_dir of a dialogue run, or a hub id.")
    name = str(path) if path.is_dir() else directory
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if not tokenizer.chat_template:
            raise UserError(f"{directory}: its tokenizer has no chat template; give the output_dir of a dialogue run.")
        model = load_result(AutoModelForCausalLM, name, dtype="auto").eval()
    except UserError:
        raise
    except (*HUB_ERRORS, ValueError, SafetensorError) as error:
        raise UserError(f"{directory}: no model for replies: {' '.join(str(error).split())[:300]}") from error
    return model.to(choose_device()), tokenizer


def reply(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    **settings,
) -> str:
    """The reply to the messages, which lose the oldest of them where model and reply have no room for all."""
    longest = getattr(model.config, "max_seq_length", None) or model.config.max_position_embeddings
    room = longest - (settings.get("max_new_tokens") or model.generation_config.max_new_tokens or longest // 2)
    if room < 1:
        raise UserError(f"max_new_tokens leaves no room for a prompt: the model takes {longest} pieces.")
    prompt = torch.tensor([encode_prompt(messages, tokenizer, room)[0][-room:]], device=model.device)
    with torch.no_grad():
        ids = model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), **settings)
    return tokenizer.decode(ids[0, prompt.size(1) :], skip_special_tokens=True).strip()


def chat(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, system: str | None, **settings) -> None:
    """Read lines and write replies, piece by piece, until the input ends."""
    is_terminal = sys.stdin.isatty()
    streamer = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    messages = start_dialogue(system)
    while True:
        try:
            text = input("> " if is_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        command, _, rest = text.partition(" ")
        if command in ("/exit", "/quit"):
            return
        if command in ("/reset", "/system"):
            system = rest.strip() or None if command == "/system" else system
            messages = start_dialogue(system)
            print("(a new dialogue)", flush=True)
        elif command.startswith("/"):
            print(f"(no command {command}; there are {COMMANDS})", flush=True)
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                said = reply(model, tokenizer, messages, streamer=streamer, **settings)
                messages.append({"role": "assistant", "content": said})
            except KeyboardInterrupt:
                messages.pop()
                print("\n(stopped; your message is taken back)", flush=True)
            except RowError as error:
                messages.pop()
                print(f"({error})", flush=True)


def start_dialogue(system: str | None) -> list[dict[str, str]]:
    """The messages before the first turn."""
    return [] if system is None else [{"role": "system", "content": system}]


def main() -> None:
    """Load the model that the command line names and talk with it."""
    install_error_hook()
    settle_imports()
    parser = argparse.ArgumentParser(
        prog="python -m common.chat", description="Talk with a trained model.", epilog=f"While you talk: {COMMANDS}."
    )
    parser.add_argument("directory", help="the output_dir of a dialogue run, or a hub id")
    parser.add_argument("--system", help="the system message")
    parser.add_argument("--max_new_tokens", type=int, help="most pieces of a reply (default: as evaluated)")
    parser.add_argument("--temperature", type=float, help="draw replies at this temperature (default: as evaluated)")
    args = parser.parse_args()
    if args.max_new_tokens is not None and args.max_new_tokens < 1:
        parser.error("--max_new_tokens must be 1 or more")
    settings = {} if args.max_new_tokens is None else {"max_new_tokens": args.max_new_tokens}
    if args.temperature is not None:
        if args.temperature < 0:
            parser.error("--temperature must be 0 (the likeliest piece each time) or more")
        settings |= {"do_sample": True, "temperature": args.temperature} if args.temperature else {"do_sample": False}
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model, tokenizer = load_chat_model(args.directory)
    if sys.stdin.isatty():
        print(f"{type(model).__name__} on {model.device}. {COMMANDS}.")
    sys.stdin.reconfigure(errors="replace")  # a byte that is no text does not end the talk
    chat(model, tokenizer, args.system, **settings)


if __name__ == "__main__":
    main()
