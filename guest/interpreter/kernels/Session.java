// Runs cells for java.py: java Session.java CELL REQUESTS ANSWERS. A byte in the pipe REQUESTS: there is code in the file
// CELL. In the pipe ANSWERS: a count and as many texts, each its length and its bytes.
import java.io.*;
import java.nio.charset.StandardCharsets;
import java.nio.file.*;
import java.util.*;
import jdk.jshell.*;
import jdk.jshell.SourceCodeAnalysis.*;

public class Session {
  // As in the jshell program.
  static final List<String> PACKAGES = List.of("java.io", "java.math", "java.net", "java.nio.file", "java.util",
      "java.util.concurrent", "java.util.function", "java.util.prefs", "java.util.regex", "java.util.stream");
  static final List<String> DONE = List.of("done");

  static JShell shell;
  static volatile boolean interrupted;

  public static void main(String[] arguments) throws Exception {
    System.setOut(stream(FileDescriptor.out));
    System.setErr(stream(FileDescriptor.err));
    // In this process, so that cells set the properties that languages.py reads, and print where java.py listens.
    shell = JShell.builder().executionEngine("local").in(InputStream.nullInputStream()).out(System.out).err(System.err).build();
    for (String name : PACKAGES) shell.eval("import " + name + ".*;");
    sun.misc.Signal.handle(new sun.misc.Signal("INT"), signal -> {
      interrupted = true;
      shell.stop();
    });
    Path cell = Path.of(arguments[0]);
    try (var requests = new FileInputStream("/proc/self/fd/" + arguments[1]);
         var answers = new DataOutputStream(new BufferedOutputStream(new FileOutputStream("/proc/self/fd/" + arguments[2])))) {
      answer(answers, DONE);
      while (requests.read() >= 0) {
        List<String> answer = run(Files.readString(cell));
        System.out.flush();
        System.err.flush();
        answer(answers, answer);
      }
    }
    System.exit(0); // whatever threads the cells have left behind
  }

  // What a cell writes with println are two events, the text and the end of the line, as they are with E2B. A PrintStream writes
  // both at once unless its class is another one.
  static PrintStream stream(FileDescriptor file) {
    return new PrintStream(new FileOutputStream(file), true) {};
  }

  static void answer(DataOutputStream answers, List<String> texts) throws IOException {
    answers.writeInt(texts.size());
    for (String text : texts) {
      byte[] bytes = text.getBytes(StandardCharsets.UTF_8);
      answers.writeInt(bytes.length);
      answers.write(bytes);
    }
    answers.flush();
  }

  static List<String> run(String code) {
    interrupted = false;
    String value = null;
    SourceCodeAnalysis analysis = shell.sourceCodeAnalysis();
    for (String rest = code; !rest.isBlank(); ) {
      CompletionInfo next = analysis.analyzeCompletion(rest);
      if (next.completeness() == Completeness.EMPTY) break;
      // What cannot be completed is given to the compiler as it is, for its diagnosis.
      String source = next.completeness().isComplete() ? next.source() : rest;
      rest = next.completeness().isComplete() ? next.remaining() : "";
      value = null;
      for (SnippetEvent event : shell.eval(source)) {
        if (event.causeSnippet() != null) continue;
        List<String> error = errorOf(event);
        if (error != null) return error;
        value = valueOf(event);
      }
      if (interrupted) return error("ExecutionInterrupted", "The execution was interrupted", "");
    }
    return value == null ? DONE : List.of("value", value);
  }

  static List<String> error(String name, String value, String traceback) {
    return List.of("error", name, value, traceback);
  }

  static List<String> errorOf(SnippetEvent event) {
    if (interrupted) return error("ExecutionInterrupted", "The execution was interrupted", "");
    if (event.status() == Snippet.Status.REJECTED) {
      var messages = new StringJoiner("\n");
      shell.diagnostics(event.snippet()).filter(Diag::isError).forEach(diagnostic -> messages.add(diagnostic.getMessage(null)));
      return error("CompilationError", messages.toString(), event.snippet().source());
    }
    JShellException exception = event.exception();
    if (exception == null) return null;
    String name = exception instanceof EvalException ? ((EvalException) exception).getExceptionClassName() : "UnresolvedReference";
    var trace = new StringWriter();
    exception.printStackTrace(new PrintWriter(trace, true));
    String traceback = trace.toString().replace(exception.getClass().getName(), name);
    return error(name.substring(name.lastIndexOf('.') + 1), Objects.toString(exception.getMessage(), ""), traceback);
  }

  // A declaration has no value, an expression has; that of a method without a result is empty. JShell shows a string
  // as its source would be.
  static String valueOf(SnippetEvent event) {
    Snippet snippet = event.snippet();
    boolean named = snippet.subKind() == Snippet.SubKind.TEMP_VAR_EXPRESSION_SUBKIND;
    if (!(snippet instanceof ExpressionSnippet) && !named) return null;
    String value = event.value();
    if (value == null || value.isEmpty()) return null;
    boolean quoted = value.length() >= 2 && value.startsWith("\"") && value.endsWith("\"");
    return quoted ? value.substring(1, value.length() - 1).translateEscapes() : value;
  }
}
